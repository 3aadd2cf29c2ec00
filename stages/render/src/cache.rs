//! Keeps compiled templates by template key.
//!
//! Guarantee: an entry is used only for the record that it was compiled from, so a changed template is compiled again
//! without being announced. Nothing of a notification is kept.
//!
//! After a crash it begins empty.

use std::sync::Arc;

use chasqui_schemas::record::Template;
use dashmap::DashMap;

use crate::engine::Compiled;

/// Maximum templates kept. An installation with more still works, but compiles some of them again.
const MAX_ENTRIES: usize = 1_024;

#[derive(Default)]
pub(crate) struct Cache {
    entries: DashMap<String, Entry>,
}

struct Entry {
    record: Arc<Template>,
    compiled: Arc<Compiled>,
}

impl Cache {
    /// The template compiled, now or before.
    pub(crate) fn compiled(&self, key: &str, record: &Arc<Template>) -> Arc<Compiled> {
        if let Some(entry) = self.entries.get(key)
            // The directory usually hands out the same allocation, which is quick to see. If not, comparing the records is
            // still far cheaper than compiling.
            && (Arc::ptr_eq(&entry.record, record) || entry.record == *record)
        {
            return Arc::clone(&entry.compiled);
        }
        let compiled = Arc::new(Compiled::new(record));
        // Rare enough that compiling everything again is better than the bookkeeping of a finer rule.
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.clear();
        }
        self.entries.insert(key.to_owned(), Entry { record: Arc::clone(record), compiled: Arc::clone(&compiled) });
        compiled
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chasqui_schemas::{Channel, submission::Content};

    use super::*;

    fn record(body: &str) -> Arc<Template> {
        let content = Content { body: Some(body.to_owned()), ..Content::default() };
        let locales = BTreeMap::from([("default".to_owned(), content)]);
        Arc::new(Template { channels: BTreeMap::from([(Channel::Push, locales)]), ..Template::default() })
    }

    #[test]
    fn a_template_is_compiled_again_when_its_record_changes_and_only_then() {
        let cache = Cache::default();
        let first = cache.compiled("t", &record("before"));
        assert!(Arc::ptr_eq(&first, &cache.compiled("t", &record("before"))), "an equal record, read again");
        let changed = cache.compiled("t", &record("after"));
        assert!(!Arc::ptr_eq(&first, &changed));
        assert!(Arc::ptr_eq(&changed, &cache.compiled("t", &record("after"))));
        assert!(!Arc::ptr_eq(&changed, &cache.compiled("other", &record("after"))));
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = Cache::default();
        for n in 0..2 * MAX_ENTRIES {
            cache.compiled(&n.to_string(), &record("b"));
            assert!(cache.entries.len() <= MAX_ENTRIES);
        }
    }
}
