//! What is asked for: the declarative file, from what was typed to what it means.

mod calendar;
mod check_id;
mod checked;
mod load;
mod names;
mod nearest;
mod path;
mod size;
mod time_span;
mod typed;
mod url;

pub(crate) use calendar::Calendar;
pub(crate) use check_id::CheckId;
pub(crate) use checked::{
    AdvertisedUrl, Backup, Compaction, Defrag, NodeName, Resources, Retention, Spec,
};
pub(crate) use load::{ConfigError, ConfigSource, load, parse};
pub(crate) use names::{ClusterToken, MemberName};
pub(crate) use path::AbsolutePath;
pub(crate) use size::ByteSize;
pub(crate) use time_span::TimeSpan;
pub(crate) use typed::Profile;
pub(crate) use url::HttpUrl;
