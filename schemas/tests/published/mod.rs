//! Files that are generated from the code, and compared with it by the tests.
//!
//! After a change of the code: `UPDATE_SCHEMAS=1 cargo test -p chasqui-schemas`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A path from this crate's folder.
pub(crate) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a published file with what the code makes of it now; with `UPDATE_SCHEMAS` it is written first.
pub(crate) fn check(path: &str, text: &str) {
    let path = file(path);
    if env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        published,
        text,
        "{} differs from the code; run UPDATE_SCHEMAS=1 cargo test -p chasqui-schemas",
        path.display()
    );
}
