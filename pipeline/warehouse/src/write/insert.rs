//! Rows into ClickHouse: the log, and the states that follow from it.
//!
//! Guarantee: when [`insert`] has returned, all of it is stored. Where it fails, some of it may be: the same piece is to
//! be inserted again under the same token, which has an effect once in each table. (Without the token too nothing would
//! be counted twice; but rows would be written twice.)
//!
//! A table has a partition for each day of submission, and an insert makes a part in each of its days, which is synced to
//! the disk. So an insert has a bounded number of days (`MAX_DAYS`); rows of more days are more inserts.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use chasqui_schemas::{clickhouse::TRACE_EVENTS, id};
use clickhouse::{Client, Compression, error::Error};

use super::{
    rows::{Row, Rows},
    states,
};

/// A server that takes longer than this for one piece is not well; the same piece is tried again.
const INSERT_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum days whose rows are in one insert: late receipts of many days may come together. As many partitions as
/// ClickHouse itself takes unless it is told otherwise; even a slow disk syncs them within [`INSERT_TIMEOUT`].
const MAX_DAYS: usize = 100;
const DAY_MS: i64 = 86_400_000;

/// Rows in the order of the tables.
pub struct Sorted(Rows);

/// What goes into one table.
pub struct Insert {
    table: &'static str,
    parts: [Bytes; 2],
}

impl Sorted {
    /// Sorts the rows.
    pub fn new(mut rows: Rows) -> Self {
        rows.sort();
        Sorted(rows)
    }

    /// The rows as pieces that can each be one insert, in their order.
    pub fn pieces(&self) -> Vec<Range<usize>> {
        let day = |row: &Row| id::embedded_ms(row.trace_id).div_euclid(DAY_MS);
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let mut from = 0;
        // Ids sort by their time, so the rows of a day are together.
        let days: Vec<_> = self.0.rows.chunk_by(|a, b| day(a) == day(b)).map(<[Row]>::len).collect();
        for days in days.chunks(MAX_DAYS) {
            let to = from + days.iter().sum::<usize>();
            pieces.push(from..to);
            from = to;
        }
        pieces
    }

    /// A piece as inserts. It takes a tenth of a second.
    pub fn encode(&self, piece: &Range<usize>) -> Vec<Insert> {
        let rows = &self.0.rows[piece.clone()];
        let [notifications, deliveries] = states::blocks(&self.0, rows);
        // In this order a reader who sees that a notification has ended finds its deliveries and its trace.
        let blocks = [(TRACE_EVENTS, self.0.block(rows)), deliveries, notifications];
        let full = blocks.into_iter().filter(|(_, block)| block.rows() > 0);
        full.map(|(table, block)| Insert { table, parts: block.bytes().map(Bytes::from) }).collect()
    }

    /// A row of a piece.
    pub(crate) fn row(&self, at: usize) -> &Row {
        &self.0.rows[at]
    }
}

/// Inserts a piece.
pub async fn insert(client: &Client, inserts: &[Insert], token: &str) -> Result<(), Error> {
    // To compress a batch takes longer than to send it.
    let client = client.clone().with_compression(Compression::None);
    for Insert { table, parts } in inserts {
        let mut insert = client
            .insert_formatted_with(format!("INSERT INTO {table} FORMAT Native"))
            .with_timeouts(Some(INSERT_TIMEOUT), Some(INSERT_TIMEOUT))
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplication_token", token)
            // Every key is in the block once already.
            .with_setting("optimize_on_insert", "0")
            // On a cluster: the answer is the shards', not that of a queue before them.
            .with_setting("distributed_foreground_insert", "1")
            .with_setting("max_partitions_per_insert_block", MAX_DAYS.to_string());
        for part in parts {
            insert.send(part.clone()).await?;
        }
        insert.end().await?;
    }
    Ok(())
}

/// ClickHouse's codes of errors that are about what rows say: a constraint of the table, a value that it cannot take. They
/// are the same at every try. All others (the disk, rights, memory, a table or a node that is not there) pass, or an
/// operator has to act. [Their list](https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp).
const CONTENT: [u32; 13] = [
    6,   // CANNOT_PARSE_TEXT
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    36,  // BAD_ARGUMENTS
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    69,  // ARGUMENT_OUT_OF_BOUND
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    131, // TOO_LARGE_STRING_SIZE
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    376, // CANNOT_PARSE_UUID
    469, // VIOLATED_CONSTRAINT
];

/// Whether ClickHouse refuses the rows for what they say. The client hands its answer on as text, which begins with the
/// code.
pub(crate) fn is_about_content(error: &Error) -> bool {
    let Error::BadResponse(answer) = error else { return false };
    let code = answer.strip_prefix("Code: ").and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    code.and_then(|code| code.parse().ok()).is_some_and(|code| CONTENT.contains(&code))
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::trace::{TraceEvent, encode};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_piece_has_a_bounded_number_of_days_and_pieces_have_every_row() {
        let id = |day: u64| uuid::Builder::from_unix_timestamp_millis(day * DAY_MS as u64 + 5, &[1; 10]).into_uuid();
        let event = |n: u64| TraceEvent { trace_id: id(n * 7 % 250), span_id: n + 1, ..TraceEvent::default() };
        let mut rows = Rows::with_capacity(0);
        rows.read(&encode(&(0..1_000).map(event).collect::<Vec<_>>())).unwrap();
        let sorted = Sorted::new(rows);
        let days = |piece: &Range<usize>| {
            let ids = piece.clone().map(|at| id::embedded_ms(sorted.row(at).trace_id) / DAY_MS);
            ids.collect::<std::collections::BTreeSet<_>>().len()
        };
        let pieces = sorted.pieces();
        assert_eq!(pieces.iter().map(days).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!((pieces[0].start, pieces[2].end), (0, 1_000));
        assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(Sorted::new(Rows::with_capacity(0)).pieces().is_empty());
        // An id that tells no time is of the first day there is.
        assert_eq!(id::embedded_ms(Uuid::from_u128(7)), 0);
    }

    #[test]
    fn an_answer_is_about_content_by_its_code() {
        for (answer, expected) in [
            ("Code: 469. DB::Exception: Constraint `c` for table chasqui.trace_events is violated", true),
            ("Code: 36", true),
            ("Code: 252. DB::Exception: Too many parts", false),
            ("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space", false),
            ("Code: 60. DB::Exception: Table does not exist. Code: 469", false),
            ("Code: ", false),
            ("502 Bad Gateway", false),
        ] {
            assert_eq!(is_about_content(&Error::BadResponse(answer.to_owned())), expected, "{answer}");
        }
        assert!(!is_about_content(&Error::TimedOut));
    }
}
