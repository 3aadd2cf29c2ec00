//! The sample submissions: the good ones pass, the bad ones do not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs, path::Path};

use chasqui_contract::Verdict;
use common::{decide, submitted};

#[test]
fn samples_are_what_their_names_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/fixtures/submissions");
    let (mut good, mut bad) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let verdict = decide(submitted(None, fs::read(&path).unwrap())).verdict;
        let is_bad = path.file_name().unwrap().to_str().unwrap().starts_with("bad-");
        assert_eq!(matches!(verdict, Verdict::Reject { .. }), is_bad, "{}: {verdict:?}", path.display());
        if is_bad { bad += 1 } else { good += 1 }
    }
    assert!(good >= 7 && bad >= 2);
}
