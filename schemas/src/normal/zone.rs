//! Time zones, by their names in the [IANA database](https://www.iana.org/time-zones).
//!
//! Systems leave out names that were given up: `Asia/Calcutta`, `US/Pacific`. Phones and browsers still send them, and a
//! zone that is not known would put somebody's night at the wrong hours. So where the system's database lacks a name,
//! the one that is built in is asked, which has them all.

use std::sync::LazyLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// What is wrong with all that is no zone.
pub const PROBLEM: &str = "must be an IANA time zone, such as America/Lima";

static BUILT_IN: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The zone of that name, in any case; the system's own rules before those that are built in, because they may be newer.
pub fn find(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).or_else(|_| BUILT_IN.get(name)).ok()
}

/// The name as the database spells it.
///
/// # Errors
/// No zone has this name.
pub fn normal(name: &str) -> Result<String, &'static str> {
    let zone = find(name.trim_matches(' ')).ok_or(PROBLEM)?;
    zone.iana_name().map(str::to_owned).ok_or(PROBLEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_systems_leave_out_are_known() {
        // What a system without old names answers with.
        for name in ["Asia/Calcutta", "US/Pacific", "Asia/Saigon", "Europe/Kiev", "Singapore", "ROK", "GB", "Etc/GMT-9"]
        {
            assert!(BUILT_IN.get(name).is_ok(), "{name}");
            assert_eq!(normal(name).as_deref(), Ok(name));
        }
        assert_eq!(normal(" asia/kolkata ").as_deref(), Ok("Asia/Kolkata"));
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for name in ["Mars/Olympus", "", "UTC+9", "Korea Standard Time", "../etc/passwd", "Asia/Calcutta\n"] {
            assert_eq!(normal(name), Err(PROBLEM), "{name}");
        }
    }
}
