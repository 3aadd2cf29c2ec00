//! Quiet hours: whether the recipient's wall clock shows a quiet time, and when that ends.
//!
//! Guarantee, whatever the zone does to its clocks: it is quiet exactly while the wall clock shows a time from `start`
//! up to, but not including, `end`. The end that [`end`] answers lies in the future and is not quiet itself, so a
//! message that is deferred to it goes on.
//!
//! Pure, so a crash changes nothing.

use jiff::{
    Timestamp, ToSpan,
    civil::{DateTime, Time},
    tz::{AmbiguousOffset, TimeZone},
};

/// When the quiet hours around `now` end; `None` where it is not quiet.
///
/// The end is the first instant after `now` at which the wall clock shows `end`. Where clocks are put forward
/// over `end`, it is the moment they are; where they are put back over it, `end` comes twice and the next one
/// counts. Putting clocks back to before `start` does not end quiet hours that had begun. An end that is quiet
/// itself, because clocks were put forward over `end` and `start` together, gives way to the next.
pub(crate) fn end(now: Timestamp, zone: &TimeZone, start: Time, end: Time) -> Option<Timestamp> {
    let is_quiet = |at: Timestamp| {
        let time = zone.to_datetime(at).time();
        if start <= end { start <= time && time < end } else { start <= time || time < end }
    };
    if !is_quiet(now) {
        return None;
    }
    // From yesterday, because clocks put back over midnight show yesterday's times again; three days on, because
    // a zone that crosses the date line may skip one.
    let today = zone.to_datetime(now).date();
    (-1..=3)
        .filter_map(|days| today.checked_add(days.days()).ok())
        .flat_map(|date| instants(zone, date.to_datetime(end)))
        .filter(|&at| at > now && !is_quiet(at))
        .min()
}

/// The instants at which the wall clock shows `time`: one, or two in a fold; in a gap the one at which it jumps
/// past it. None outside jiff's range of time.
fn instants(zone: &TimeZone, time: DateTime) -> Vec<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(time);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(time).into_iter().collect(),
        AmbiguousOffset::Fold { before, after } => {
            [before, after].into_iter().filter_map(|offset| offset.to_timestamp(time).ok()).collect()
        }
        // Read with the offset after the gap, `time` lies before the jump, less than a gap's length.
        AmbiguousOffset::Gap { after, .. } => after
            .to_timestamp(time)
            .ok()
            .and_then(|before_the_jump| zone.following(before_the_jump).next())
            .map(|jump| jump.timestamp())
            .into_iter()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, civil::time};
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// `("22:00", "07:00")`.
    type Span = (&'static str, &'static str);

    fn check(name: &str, (start, end_): Span, now: &str, expected: Option<&str>) {
        let found = end(now.parse().unwrap(), &zone(name), start.parse().unwrap(), end_.parse().unwrap());
        assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{name}, {start}-{end_}, at {now}");
    }

    #[test]
    fn quiet_hours_end_on_the_right_day_in_the_recipients_zone() {
        let night = ("22:00", "07:00");
        // Seoul is nine hours ahead of UTC.
        check("Asia/Seoul", night, "2026-07-01T12:59:59Z", None);
        check("Asia/Seoul", night, "2026-07-01T13:00:00Z", Some("2026-07-01T22:00:00Z"));
        check("Asia/Seoul", night, "2026-07-01T15:30:00Z", Some("2026-07-01T22:00:00Z"));
        check("Asia/Seoul", night, "2026-07-01T21:59:59.999999999Z", Some("2026-07-01T22:00:00Z"));
        check("Asia/Seoul", night, "2026-07-01T22:00:00Z", None);
        let siesta = ("13:00", "15:00");
        check("UTC", siesta, "2026-07-01T12:59:59Z", None);
        check("UTC", siesta, "2026-07-01T13:00:00Z", Some("2026-07-01T15:00:00Z"));
        check("UTC", siesta, "2026-07-01T15:00:00Z", None);
    }

    #[test]
    fn a_span_that_ends_where_it_starts_is_none() {
        for minute in 0..24 * 60 {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute);
            assert_eq!(end(now, &TimeZone::UTC, time(22, 0, 0, 0), time(22, 0, 0, 0)), None);
        }
    }

    #[test]
    fn an_end_in_a_gap_is_the_moment_the_clocks_jump() {
        // New York, 2026-03-08: 02:00 EST (07:00Z) becomes 03:00 EDT.
        check("America/New_York", ("22:00", "02:30"), "2026-03-08T06:59:59Z", Some("2026-03-08T07:00:00Z"));
        check("America/New_York", ("22:00", "02:00"), "2026-03-08T06:59:59Z", Some("2026-03-08T07:00:00Z"));
        check("America/New_York", ("22:00", "03:00"), "2026-03-08T06:59:59Z", Some("2026-03-08T07:00:00Z"));
        check("America/New_York", ("22:00", "02:30"), "2026-03-08T07:00:00Z", None);
        // A night with a gap in it is an hour shorter: 07:00 EDT.
        check("America/New_York", ("22:00", "07:00"), "2026-03-08T03:00:00Z", Some("2026-03-08T11:00:00Z"));
        // The clocks jump over the whole time that is not quiet: the next day's counts.
        check("America/New_York", ("02:45", "02:15"), "2026-03-08T06:00:00Z", Some("2026-03-09T06:15:00Z"));
    }

    #[test]
    fn an_end_in_a_fold_comes_twice() {
        // New York, 2026-11-01: 02:00 EDT (06:00Z) becomes 01:00 EST.
        let span = ("22:00", "01:30");
        check("America/New_York", span, "2026-11-01T05:15:00Z", Some("2026-11-01T05:30:00Z"));
        check("America/New_York", span, "2026-11-01T05:30:00Z", None);
        check("America/New_York", span, "2026-11-01T06:00:00Z", Some("2026-11-01T06:30:00Z"));
        check("America/New_York", span, "2026-11-01T06:30:00Z", None);
        // A night with a fold in it is an hour longer: 07:00 EST.
        check("America/New_York", ("22:00", "07:00"), "2026-11-01T02:00:00Z", Some("2026-11-01T12:00:00Z"));
        // Going back to before the start does not end what had begun.
        check("America/New_York", ("01:30", "05:00"), "2026-11-01T05:45:00Z", Some("2026-11-01T10:00:00Z"));
        // St. John's put clocks back at 00:01, into the day before.
        check("America/St_Johns", ("22:00", "23:30"), "2010-11-07T02:30:30Z", None);
        check("America/St_Johns", ("23:50", "23:30"), "2010-11-07T02:30:30Z", Some("2010-11-07T03:00:00Z"));
    }

    #[test]
    fn a_skipped_day_is_skipped() {
        // Apia went from the end of 2011-12-29 (UTC-10) to 2011-12-31 (UTC+14).
        check("Pacific/Apia", ("22:00", "07:00"), "2011-12-30T09:00:00Z", Some("2011-12-30T17:00:00Z"));
    }

    const ZONES: [&str; 24] = [
        "UTC",
        "America/New_York",
        "America/Sao_Paulo",
        "America/Havana",
        "America/St_Johns",
        "America/Nuuk",
        "America/Santiago",
        "Europe/London",
        "Europe/Dublin",
        "Europe/Berlin",
        "Africa/Casablanca",
        "Africa/Cairo",
        "Asia/Gaza",
        "Asia/Beirut",
        "Asia/Tehran",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Asia/Seoul",
        "Australia/Lord_Howe",
        "Antarctica/Troll",
        "Pacific/Chatham",
        "Pacific/Apia",
        "Pacific/Kwajalein",
        "Pacific/Kiritimati",
    ];

    /// Zone, instant: any, or within a day and a half of a change of the clocks. From 1975, since when every
    /// offset is one of whole minutes, which the minute-wise oracle below relies on.
    fn moments() -> impl Strategy<Value = (&'static str, Timestamp)> {
        let seconds = Timestamp::constant(157_766_400, 0).as_second()..4_102_444_800; // 1975 to 2100
        (select(&ZONES[..]), seconds, any::<bool>(), -36 * 60..36 * 60i64).prop_map(|(name, second, near, minutes)| {
            let zone = zone(name);
            let change = zone.following(Timestamp::from_second(second).unwrap()).next().filter(|_| near);
            let second = change.map_or(second, |change| change.timestamp().as_second());
            // Zone files may list a change at the end of 32-bit time that changes nothing, within a minute.
            Timestamp::from_second(second - second % 60 + minutes * 60).map(|at| (name, at)).unwrap()
        })
    }

    fn times() -> impl Strategy<Value = Time> {
        // Half of them in the small hours, where clocks change.
        (prop_oneof![0..24i8, 0..4i8], 0..60i8).prop_map(|(hour, minute)| time(hour, minute, 0, 0))
    }

    fn shows_quiet(time: Time, start: Time, end: Time) -> bool {
        let mut each = start;
        while each != end {
            if each == time {
                return true;
            }
            each = each.wrapping_add(1.minute());
        }
        false
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_is_deferred_finds_itself_outside((name, now) in moments(), start in times(), stop in times(), ns in 0..60_000_000_000i64) {
            let zone = zone(name);
            let now = now + SignedDuration::from_nanos(ns);
            if let Some(until) = end(now, &zone, start, stop) {
                prop_assert!(until > now);
                prop_assert_eq!(end(until, &zone, start, stop), None);
                // A day, a day skipped at the date line, a gap.
                prop_assert!(until.duration_since(now) <= SignedDuration::from_hours(50));
            }
        }

        #[test]
        fn it_is_quiet_exactly_while_the_wall_clock_shows_a_quiet_time((name, now) in moments(), start in times(), stop in times()) {
            let zone = zone(name);
            let quiet = shows_quiet(zone.to_datetime(now).time(), start, stop);
            prop_assert_eq!(end(now, &zone, start, stop).is_some(), quiet);
        }

        /// The oracle watches the wall clock minute by minute until it shows the end, or jumps over it.
        #[test]
        fn the_end_is_when_the_wall_clock_first_shows_it((name, now) in moments(), start in times(), stop in times()) {
            let zone = zone(name);
            if let Some(until) = end(now, &zone, start, stop) {
                let mut at = now;
                let seen = loop {
                    let before = zone.to_datetime(at);
                    at += SignedDuration::from_mins(1);
                    let after = zone.to_datetime(at);
                    let jumped = [before.date(), after.date(), after.date().yesterday().unwrap()]
                        .iter()
                        .any(|date| before < date.to_datetime(stop) && date.to_datetime(stop) < after);
                    if (after.time() == stop || jumped) && !shows_quiet(after.time(), start, stop) {
                        break at;
                    }
                };
                prop_assert_eq!(until, seen);
            }
        }
    }
}
