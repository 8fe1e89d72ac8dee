//! Whether giving space back is worth its pause, now. Pure.

use std::time::Duration;

use super::LastDefrag;
use crate::member::{Alarm, MemberStatus};
use crate::spec::{ByteSize, Defrag, TimeSpan};

/// Copying rate that is assumed before the first run: a slow SSD, both reading and writing.
const FIRST_RATE_PER_SECOND: ByteSize = ByteSize::from_mib(100);
/// A forecast is raised by this many percent.
const FORECAST_MARGIN_PERCENT: u32 = 20;
/// From this share of the quota on, neither the interval nor the pause holds a run back: a
/// database that takes no more writes is worse.
const PRESSING_QUOTA_PERCENT: u64 = 80;
/// The copy needs room for what is in use, and this many percent more.
const ROOM_PERCENT: u64 = 120;

/// Everything that the decision is made of.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) settings: &'a Defrag,
    pub(crate) status: &'a MemberStatus,
    pub(crate) alarms: &'a [Alarm],
    pub(crate) quota: ByteSize,
    /// On the file system of the database; absent when it cannot be seen.
    pub(crate) room: Option<ByteSize>,
    pub(crate) last: Option<LastDefrag>,
    pub(crate) unix_seconds: u64,
    /// The kill switch lies there.
    pub(crate) disabled: bool,
    /// A person asked for it: thresholds, interval and pause do not hold it back.
    pub(crate) asked_for: bool,
}

/// What is to be done, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Run {
        why: String,
        /// How long the member will probably pause.
        forecast: Duration,
    },
    /// It would not be worth it.
    Skip { why: String },
    /// It would be worth it, but not now.
    Defer { why: String },
    /// The member must not be touched.
    Unfit { why: String },
}

/// The share of the file that is free, 0 to 1.
pub(crate) fn fragmentation(status: &MemberStatus) -> f64 {
    let size = status.size.bytes();
    if size == 0 {
        return 0.0;
    }
    free(status).bytes() as f64 / size as f64
}

fn free(status: &MemberStatus) -> ByteSize {
    ByteSize::from_bytes(status.size.bytes().saturating_sub(status.in_use.bytes()))
}

/// Decides.
pub(crate) fn decide(circumstances: &Circumstances<'_>) -> Decision {
    let Circumstances { status, alarms, .. } = circumstances;
    if alarms.contains(&Alarm::Corrupt) {
        return Decision::Unfit {
            why: "the alarm CORRUPT is raised".to_owned(),
        };
    }
    if status.leader_id.is_none() {
        return Decision::Unfit {
            why: "it knows no leader".to_owned(),
        };
    }
    if circumstances.disabled {
        let path = crate::paths::DEFRAG_DISABLED;
        return Decision::Skip {
            why: format!("{path} exists; remove it to allow defragmentation"),
        };
    }
    if status.is_learner {
        return Decision::Skip {
            why: "a learner cannot be defragmented".to_owned(),
        };
    }
    let gain = match worth(circumstances) {
        Ok(gain) => gain,
        Err(why) => return Decision::Skip { why },
    };
    let forecast = forecast(circumstances);
    match obstacle(circumstances, forecast) {
        Some(why) => Decision::Defer { why },
        None => Decision::Run {
            why: gain,
            forecast,
        },
    }
}

/// What would be gained, or why that is too little.
fn worth(circumstances: &Circumstances<'_>) -> Result<String, String> {
    let Circumstances {
        settings, status, ..
    } = circumstances;
    let gain = format!(
        "{} of {} free ({:.0} %)",
        free(status).rounded(),
        status.size.rounded(),
        fragmentation(status) * 100.0
    );
    if circumstances.asked_for {
        return Ok(gain);
    }
    if status.size < settings.min_size {
        return Err(format!(
            "the database has {}, less than defrag.min_size = {}",
            status.size.rounded(),
            settings.min_size
        ));
    }
    if fragmentation(status) < settings.min_fragmentation {
        let least = settings.min_fragmentation * 100.0;
        return Err(format!(
            "{gain}, less than defrag.min_fragmentation = {least:.0} %"
        ));
    }
    if free(status) < settings.min_free {
        return Err(format!(
            "{gain}, less than defrag.min_free = {}",
            settings.min_free
        ));
    }
    if let Some(last) = circumstances.last
        && !pressing(circumstances)
    {
        let since = circumstances.unix_seconds.saturating_sub(last.unix_seconds);
        let since = TimeSpan::from_secs(since);
        if since < settings.min_interval {
            return Err(format!(
                "the last run was {since} ago, less than defrag.min_interval = {}",
                settings.min_interval
            ));
        }
    }
    Ok(gain)
}

fn pressing(circumstances: &Circumstances<'_>) -> bool {
    let quota = circumstances.quota.bytes();
    let size = circumstances.status.size.bytes();
    quota > 0 && u128::from(size) * 100 >= u128::from(quota) * u128::from(PRESSING_QUOTA_PERCENT)
}

fn forecast(circumstances: &Circumstances<'_>) -> Duration {
    let in_use = circumstances.status.in_use;
    let by_rate = circumstances.last.and_then(|last| last.forecast(in_use));
    let bare = by_rate.unwrap_or_else(|| {
        Duration::from_secs_f64(in_use.bytes() as f64 / FIRST_RATE_PER_SECOND.bytes() as f64)
    });
    bare + bare * FORECAST_MARGIN_PERCENT / 100
}

fn obstacle(circumstances: &Circumstances<'_>, forecast: Duration) -> Option<String> {
    let Circumstances {
        settings,
        status,
        room,
        ..
    } = circumstances;
    let needed = ByteSize::from_bytes(
        u64::try_from(u128::from(status.in_use.bytes()) * u128::from(ROOM_PERCENT) / 100)
            .unwrap_or(u64::MAX),
    );
    if let Some(room) = room
        && *room < needed
    {
        return Some(format!(
            "the disk has {} free, a copy may need {}; make room",
            room.rounded(),
            needed.rounded()
        ));
    }
    let too_long = forecast > settings.max_pause.as_duration();
    if too_long && !circumstances.asked_for && !pressing(circumstances) {
        return Some(format!(
            "the member would pause for about {:.1} s, longer than defrag.max_pause = {}; choose a quiet time and run: provision defrag --now",
            forecast.as_secs_f64(),
            settings.max_pause
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Profile, Spec};

    const NOW: u64 = 10_000_000;

    fn status(size_mib: u64, in_use_mib: u64) -> MemberStatus {
        MemberStatus {
            version: "3.6.12".to_owned(),
            cluster_id: 1,
            member_id: 2,
            revision: 3,
            size: ByteSize::from_mib(size_mib),
            in_use: ByteSize::from_mib(in_use_mib),
            quota: None,
            leader_id: Some(2),
            is_learner: false,
            term: 2,
            applied_index: 9,
            errors: Vec::new(),
        }
    }

    fn last(seconds_ago: u64) -> Option<LastDefrag> {
        Some(LastDefrag {
            unix_seconds: NOW - seconds_ago,
            size_before: 1,
            size_after: 1,
            in_use: 100 << 20,
            took_ms: 1000,
        })
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "each case makes its own")]
    fn check(status: MemberStatus, expected: &str, change: impl FnOnce(&mut Circumstances<'_>)) {
        let spec = Spec::defaults(Profile::Prod);
        let mut circumstances = Circumstances {
            settings: &spec.defrag,
            status: &status,
            alarms: &[],
            quota: ByteSize::from_gib(2),
            room: Some(ByteSize::from_gib(10)),
            last: None,
            unix_seconds: NOW,
            disabled: false,
            asked_for: false,
        };
        change(&mut circumstances);
        let decision = decide(&circumstances);
        let text = format!("{decision:?}");
        assert!(text.contains(expected), "wanted {expected:?}, got {text}");
    }

    #[test]
    fn only_a_large_and_mostly_free_file_is_worth_a_pause() {
        check(
            status(200, 100),
            "Run { why: \"100.0 MiB of 200.0 MiB free (50 %)\"",
            |_| {},
        );
        check(status(99, 10), "defrag.min_size", |_| {});
        check(status(200, 120), "defrag.min_fragmentation", |_| {});
        check(status(110, 50), "defrag.min_free", |_| {});
        check(status(0, 0), "defrag.min_size", |_| {});
        check(status(99, 98), "Run", |c| c.asked_for = true);
    }

    #[test]
    fn runs_keep_their_distance_unless_the_quota_presses() {
        check(status(200, 100), "defrag.min_interval", |c| {
            c.last = last(3600);
        });
        check(status(200, 100), "Run", |c| c.last = last(7 * 86_400));
        check(status(1700, 100), "Run", |c| c.last = last(3600));
        check(status(200, 100), "Run", |c| {
            c.last = last(3600);
            c.asked_for = true;
        });
    }

    #[test]
    fn a_long_pause_is_left_to_a_person_unless_the_quota_presses() {
        // 600 MiB at 100 MiB/s and a fifth more.
        check(
            status(1200, 600),
            "Defer { why: \"the member would pause for about 7.2 s",
            |_| {},
        );
        check(status(1200, 600), "forecast: 7.2s", |c| c.asked_for = true);
        check(status(1700, 600), "Run", |_| {});
        // The last run's rate counts: 100 MiB in a second is the same, ten times as fast is not.
        check(status(1200, 600), "Run", |c| {
            c.last = last(7 * 86_400).map(|last| LastDefrag {
                took_ms: 100,
                ..last
            });
        });
    }

    #[test]
    fn without_room_for_the_copy_nothing_is_begun() {
        let room = |c: &mut Circumstances<'_>| c.room = Some(ByteSize::from_mib(119));
        check(
            status(200, 100),
            "Defer { why: \"the disk has 119.0 MiB free",
            room,
        );
        check(status(200, 100), "Run", |c| c.room = None);
    }

    #[test]
    fn a_member_that_is_not_well_is_not_touched() {
        check(status(200, 100), "Unfit", |c| c.alarms = &[Alarm::Corrupt]);
        check(
            MemberStatus {
                leader_id: None,
                ..status(200, 100)
            },
            "Unfit",
            |_| {},
        );
        check(
            MemberStatus {
                is_learner: true,
                ..status(200, 100)
            },
            "Skip",
            |_| {},
        );
        check(status(200, 100), "defrag.disabled", |c| {
            c.disabled = true;
            c.asked_for = true;
        });
        // Being out of space is what it is for.
        check(status(200, 100), "Run", |c| c.alarms = &[Alarm::NoSpace]);
    }
}
