//! Real server processes: start, wait until they answer, stop, kill.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::client::Client;
use crate::folder::Folder;
use crate::tools::{self, EtcdVersion};

/// A loaded machine may take this long to start a server; a healthy one takes well below a second.
const START_SECONDS_MAX: u64 = 60;
/// A stopping server must be done by then.
const STOP_SECONDS_MAX: u64 = 10;
/// How often a state that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Lines of a server's log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;
/// Ports that are tried until one is found that no other test of this run was given.
const PORT_ATTEMPTS_MAX: usize = 1_000;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// The one under test.
    Holdfast,
    /// The one to compare with.
    Etcd(EtcdVersion),
}

impl Product {
    /// The server under test: holdfast, unless `TEST_SUBJECT` says otherwise.
    ///
    /// # Panics
    /// If the variable names something unknown.
    pub fn subject() -> Product {
        match std::env::var("TEST_SUBJECT").as_deref() {
            Err(_) | Ok("holdfast") => Product::Holdfast,
            Ok("etcd-3.4") => Product::Etcd(EtcdVersion::V3_4),
            Ok("etcd-3.5") => Product::Etcd(EtcdVersion::V3_5),
            Ok(other) => panic!("TEST_SUBJECT is holdfast, etcd-3.4 or etcd-3.5, not {other:?}"),
        }
    }

    /// The program.
    ///
    /// # Panics
    /// If it is missing.
    pub fn program(self) -> PathBuf {
        match self {
            Product::Holdfast => tools::holdfast(),
            Product::Etcd(version) => tools::etcd_program(version, "etcd"),
        }
    }
}

/// A running server on a data directory of its own. It is killed when the value goes; its log is
/// printed when that happens in a failing test.
#[derive(Debug)]
pub struct Member {
    product: Product,
    child: Option<Child>,
    folder: Option<Folder>,
    client_port: u16,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    place: Option<Place>,
}

/// A host of a [`crate::network::Network`].
#[derive(Clone, Debug)]
pub struct Place {
    /// Its network namespace.
    pub namespace: String,
    /// Its address.
    pub address: String,
}

impl Member {
    /// Starts a new cluster of one and waits until it answers.
    pub async fn start(product: Product) -> Member {
        Member::start_on(product, Folder::new(), &[]).await
    }

    /// Starts on a data directory, with further flags, and waits until it answers.
    ///
    /// # Panics
    /// If it ends or does not answer in time.
    pub async fn start_on(product: Product, folder: Folder, flags: &[&str]) -> Member {
        let mut member = Member::spawn(product, folder, flags);
        member.wait_until_ready().await;
        member
    }

    /// Starts without waiting.
    ///
    /// # Panics
    /// If the program cannot be run.
    pub fn spawn(product: Product, folder: Folder, flags: &[&str]) -> Member {
        Member::spawn_in(product, folder, flags, &[])
    }

    /// Starts with variables in its environment, without waiting.
    ///
    /// # Panics
    /// If the program cannot be run.
    pub fn spawn_in(
        product: Product,
        folder: Folder,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Member {
        Member::spawn_at(product, folder, flags, environment, None)
    }

    /// Starts on a host of a network of its own, without waiting.
    ///
    /// # Panics
    /// If the program cannot be run.
    pub fn spawn_at(
        product: Product,
        folder: Folder,
        flags: &[&str],
        environment: &[(&str, &str)],
        place: Option<Place>,
    ) -> Member {
        let log = folder.beside("log");
        let mut member = Member {
            product,
            child: None,
            folder: Some(folder),
            client_port: free_port(),
            flags: flags.iter().map(ToString::to_string).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            log,
            place,
        };
        member.launch();
        member
    }

    /// Starts it (again) on its directory, without waiting.
    ///
    /// # Panics
    /// If the program cannot be run.
    pub fn launch(&mut self) {
        let output = File::options().create(true).append(true).open(&self.log);
        let output = output.expect("a log file can be made");
        let errors = output.try_clone().expect("a file handle can be copied");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        self.child = Some(command.spawn().expect("the server's program can be run"));
    }

    /// The whole command line, without variables of the environment that a server would read.
    fn command(&self) -> Command {
        let mut command = match &self.place {
            None => Command::new(self.product.program()),
            Some(place) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &place.namespace]);
                command.arg(self.product.program());
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            let read = ["ETCD_", "NOTIFY_SOCKET", "JOURNAL_STREAM", "LISTEN_"];
            if read
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        let folder = self.folder();
        let client = self.url();
        let advertised = format!("http://127.0.0.1:{}", folder.advertised_peer_port);
        let listen_peer = format!("http://127.0.0.1:{}", free_port());
        command
            .args(["--name", "one", "--data-dir"])
            .arg(folder.data())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args(["--listen-peer-urls", &listen_peer])
            .args(["--initial-advertise-peer-urls", &advertised])
            .args(["--initial-cluster", &format!("one={advertised}")])
            .args([
                "--initial-cluster-token",
                "test",
                "--initial-cluster-state",
                "new",
            ])
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
        if self.product == Product::Etcd(EtcdVersion::V3_4) {
            command.args(["--logger", "zap"]);
        }
        command
            .args(&self.flags)
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Waits until it answers linearizable reads.
    ///
    /// # Panics
    /// If it ends or does not answer in time.
    pub async fn wait_until_ready(&mut self) {
        if let Some(status) = self.wait_until_ready_or_ended().await {
            panic!(
                "{:?} ended with {status} instead of answering",
                self.product
            );
        }
    }

    /// Waits until it answers linearizable reads, or has ended, and says how.
    ///
    /// # Panics
    /// If it does neither in time.
    pub async fn wait_until_ready_or_ended(&mut self) -> Option<ExitStatus> {
        let deadline = deadline(START_SECONDS_MAX);
        loop {
            let ended = self.exited();
            if ended.is_some() || self.client().answers().await {
                return ended;
            }
            assert!(
                now() < deadline,
                "{:?} did not answer in time",
                self.product
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://{}", self.endpoint())
    }

    /// `host:port` where clients connect.
    pub fn endpoint(&self) -> String {
        let place = self.place.as_ref();
        let host = place.map_or("127.0.0.1", |place| &place.address);
        format!("{host}:{}", self.client_port)
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::new(&self.url())
    }

    /// The flags that it was started with, and these.
    pub fn flags_and(&self, more: &[&str]) -> Vec<String> {
        let more = more.iter().map(ToString::to_string);
        self.flags.iter().cloned().chain(more).collect()
    }

    /// Which server this is.
    pub fn product(&self) -> Product {
        self.product
    }

    /// Its data directory.
    ///
    /// # Panics
    /// Never while the member lives.
    pub fn folder(&self) -> &Folder {
        self.folder
            .as_ref()
            .expect("a member has its folder until it gives it back")
    }

    /// Everything it has written to its log.
    ///
    /// # Panics
    /// If the file cannot be read.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("there is a log")).into_owned()
    }

    /// Id of its process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Processor time that it has used so far.
    ///
    /// # Panics
    /// If it does not run.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.expect("a running process has statistics");
        // The name in brackets may hold spaces; user and system time are the 12th and 13th after it.
        let fields: Vec<&str> = stat[stat.rfind(')').expect("name") + 2..]
            .split(' ')
            .collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)
            .ok()
            .flatten()
            .expect("clock ticks") as u64;
        Duration::from_nanos(ticks * (1_000_000_000 / per_second))
    }

    /// Memory that it holds, in bytes, mapped files included.
    ///
    /// # Panics
    /// If it does not run.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("a running process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: u64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .and_then(|number| number.parse().ok())
            .expect("a running process holds memory");
        kibibytes << 10
    }

    /// Stops it as systemd would, and gives its data directory back.
    ///
    /// # Panics
    /// If it does not end in time, or not with success.
    pub fn stop(mut self) -> Folder {
        let status = self.terminate();
        // etcd ends by the signal it was sent.
        let by_signal = matches!(self.product, Product::Etcd(_));
        assert!(
            status.success() || by_signal,
            "{:?} stopped with {status}",
            self.product
        );
        self.give_back()
    }

    /// The data directory of a server that has ended.
    pub fn into_folder(self) -> Folder {
        self.give_back()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_for_end(STOP_SECONDS_MAX)
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    /// If it does not within the time.
    pub fn wait_for_end(&mut self, seconds_max: u64) -> ExitStatus {
        let deadline = deadline(seconds_max);
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            let late = now() >= deadline;
            assert!(
                !late,
                "{:?} did not end within {seconds_max} s",
                self.product
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends it at once, with no chance to write anything, and gives its data directory back.
    pub fn kill(mut self) -> Folder {
        self.end_at_once();
        self.give_back()
    }

    /// Ends it at once and keeps it for [`Member::launch`].
    pub fn end_at_once(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("our own child can be signalled");
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut().expect("the server was started");
        child.try_wait().expect("our own child can be waited for")
    }

    fn give_back(mut self) -> Folder {
        self.end_at_once();
        self.folder.take().expect("given back once")
    }
}

impl Drop for Member {
    #[expect(clippy::print_stderr, reason = "the log of a server in a failed test")]
    fn drop(&mut self) {
        self.end_at_once();
        if std::thread::panicking() && self.folder.is_some() {
            let log = fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!(
                "--- end of the log of {:?}\n{}\n---",
                self.product,
                shown.join("\n")
            );
        }
    }
}

/// A loopback port that is free now and was not given to anybody else in this process.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    for _ in 0..PORT_ATTEMPTS_MAX {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        if given.insert(port) {
            return port;
        }
    }
    panic!("no free loopback port after {PORT_ATTEMPTS_MAX} attempts")
}

#[expect(clippy::disallowed_methods, reason = "deadlines of tests")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

fn deadline(seconds: u64) -> Instant {
    now() + Duration::from_secs(seconds)
}
