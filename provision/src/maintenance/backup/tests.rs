//! Backups against a member that speaks real gRPC and delivers what a test tells it to.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, ResponseHeader, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use tonic::codegen::tokio_stream;
use tonic::{Request, Response, Status};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// A member whose snapshot is these pieces; a refusal ends them early.
#[derive(Clone)]
struct Member {
    pieces: Vec<Bytes>,
    breaks_off: bool,
}

#[tonic::async_trait]
impl Maintenance for Member {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            header: Some(ResponseHeader {
                revision: 42,
                member_id: 7,
                ..Default::default()
            }),
            version: "3.6.0".to_owned(),
            db_size: 4096,
            ..Default::default()
        }))
    }

    type SnapshotStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<SnapshotResponse, Status>> + Send>,
    >;

    async fn snapshot(
        &self,
        _: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let mut left: u64 = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut answers: Vec<Result<SnapshotResponse, Status>> = Vec::new();
        for piece in &self.pieces {
            left -= piece.len() as u64;
            answers.push(Ok(SnapshotResponse {
                remaining_bytes: left,
                blob: piece.clone(),
                ..Default::default()
            }));
        }
        if self.breaks_off {
            answers.pop();
            answers.push(Err(Status::unavailable("the member is going down")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn alarm(&self, _: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        Err(Status::unimplemented("alarm"))
    }

    async fn defragment(
        &self,
        _: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        Err(Status::unimplemented("defragment"))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        Err(Status::unimplemented("hash"))
    }

    async fn hash_kv(&self, _: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        Err(Status::unimplemented("hash_kv"))
    }

    async fn move_leader(
        &self,
        _: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        Err(Status::unimplemented("move_leader"))
    }

    async fn downgrade(
        &self,
        _: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        Err(Status::unimplemented("downgrade"))
    }
}

/// Serves on a free port until the test's process ends.
fn serve(member: Member) -> Client {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let address: SocketAddr = listener.local_addr().expect("address");
    listener.set_nonblocking(true).expect("nonblocking");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("runtime").block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let service = TowerToHyperService::new(MaintenanceServer::new(member.clone()));
                let executor = TokioExecutor::new();
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(executor)
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    let url = format!("http://{address}").parse().expect("url");
    Client::connect(&url).expect("connect")
}

/// A database of one page, in two pieces, the hash split between them and a third.
fn whole() -> Vec<Bytes> {
    let page = vec![7; 4096];
    let mut all = page.clone();
    all.extend_from_slice(&Sha256::digest(&page));
    [&all[..3000], &all[3000..4100], &all[4100..]]
        .map(Bytes::copy_from_slice)
        .to_vec()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = file_names(folder).expect("folder");
    names.sort();
    names
}

#[test]
fn a_whole_snapshot_becomes_a_backup_that_only_its_owner_reads() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut client = serve(Member {
        pieces: whole(),
        breaks_off: false,
    });
    let created = create(&mut client, folder.path(), LIMIT).expect("backup");
    assert_eq!(created.info.revision, 42);
    assert_eq!(
        std::fs::read(&created.path).expect("content"),
        whole().concat()
    );
    let metadata = std::fs::metadata(&created.path).expect("metadata");
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert_eq!(list(folder.path()).expect("list"), [created.info]);
}

#[test]
fn a_snapshot_that_is_not_whole_leaves_only_the_old_backups() {
    let mut flipped = whole().concat();
    flipped[100] ^= 1;
    let cut = whole().concat()[..4096 - 512].to_vec();
    let cases = [
        (vec![Bytes::from(flipped)], false, "its end says"),
        (vec![Bytes::from(cut)], false, "not whole pages"),
        (Vec::new(), false, "0 bytes"),
        (whole(), true, "going down"),
    ];
    for (pieces, breaks_off, expected) in cases {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::write(folder.path().join("holdfast-20260101T000000Z-r1.db"), "old").expect("old");
        let before = names(folder.path());
        let mut client = serve(Member { pieces, breaks_off });
        let error = create(&mut client, folder.path(), LIMIT)
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "wanted {expected:?}: {error}");
        assert_eq!(names(folder.path()), before, "{expected}");
    }
}

#[test]
fn parts_of_a_run_that_was_cut_off_go_and_strangers_stay() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in [
        "holdfast-20260101T000000Z-r1.db.part",
        "holdfast-20260101T000000Z-r1.db.json",
        "notes.part",
        "holdfast-20260102T000000Z-r2.db",
        "holdfast-20260102T000000Z-r2.db.json",
    ] {
        std::fs::write(folder.path().join(name), "x").expect("file");
    }
    remove_leftovers(folder.path()).expect("removed");
    assert_eq!(
        names(folder.path()),
        [
            "holdfast-20260102T000000Z-r2.db",
            "holdfast-20260102T000000Z-r2.db.json",
            "notes.part"
        ]
    );
}

#[test]
fn pruning_keeps_the_newest_and_what_is_not_ours() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in [
        "holdfast-20260101T000000Z-r1.db",
        "holdfast-20260101T000000Z-r1.db.json",
        "holdfast-20260102T000000Z-r2.db",
        "holdfast-20260103T000000Z-r3.db",
        "other-20260101T000000Z-r1.db",
    ] {
        std::fs::write(folder.path().join(name), "{}").expect("file");
    }
    let retention = Retention {
        hourly: 0,
        daily: 2,
        weekly: 0,
    };
    let named = prune(folder.path(), retention, true).expect("dry run");
    assert_eq!(named, ["holdfast-20260101T000000Z-r1.db"]);
    assert_eq!(names(folder.path()).len(), 5);
    assert_eq!(
        prune(folder.path(), retention, false).expect("prune"),
        named
    );
    let none = Retention {
        hourly: 0,
        daily: 0,
        weekly: 0,
    };
    prune(folder.path(), none, false).expect("prune");
    assert_eq!(
        names(folder.path()),
        [
            "holdfast-20260103T000000Z-r3.db",
            "other-20260101T000000Z-r1.db"
        ]
    );
}
