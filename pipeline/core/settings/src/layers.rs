//! Lays settings over one another: the defaults, the operator's file, environment variables.

use std::path::Path;

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::SettingsError;

/// Reads settings in layers; later ones win: `defaults` (TOML texts), `file` (the operator's own), environment variables
/// `CHASQUI_<SECTION>__<KEY>`, and `over`, what the program itself decides (`Value::Null` where it decides nothing).
///
/// # Errors
/// Where the file is not there, or a name or value in any layer cannot be used; the error names the setting and says
/// which layer it stands in.
pub fn read<T: DeserializeOwned>(defaults: &[&str], file: Option<&Path>, over: &Value) -> Result<T, SettingsError> {
    let mut layers = Figment::new();
    for text in defaults {
        layers = layers.merge(Toml::string(text));
    }
    if let Some(path) = file {
        if !path.is_file() {
            return Err(SettingsError::invalid("--config", format!("there is no file {}", path.display())));
        }
        layers = layers.merge(Toml::file_exact(path));
    }
    // A variable without two underscores is no setting: CHASQUI_CONFIG, or a secret that a setting names.
    layers = layers.merge(Env::prefixed("CHASQUI_").filter(|key| key.as_str().contains("__")).split("__"));
    if !over.is_null() {
        layers = layers.merge(Serialized::defaults(over));
    }
    layers.extract().map_err(|error| {
        let key = if error.path.is_empty() { "the settings".to_owned() } else { error.path.join(".") };
        let place = error.metadata.as_ref().map(|metadata| match &metadata.source {
            Some(source) => format!(" (in {source})"),
            None => format!(" (in {})", metadata.name),
        });
        let problem = format!("{}{}; `chasqui config` prints every setting", error.kind, place.unwrap_or_default());
        SettingsError::invalid(key, problem)
    })
}

/// Lays a part's own `values` over its `defaults` (a TOML text), where the part stands at `key` of the whole: the settings
/// of an account, which only its vendor's module can read.
///
/// # Errors
/// Where a name or value cannot be used, or one is missing; the error names the setting below `key`.
pub fn overlay<T: DeserializeOwned>(defaults: &str, values: &Value, key: &str) -> Result<T, SettingsError> {
    let layers = Figment::from(Toml::string(defaults)).merge(Serialized::defaults(values));
    layers.extract().map_err(|error| {
        let (named, problem) = match &error.kind {
            Kind::MissingField(name) => (Some(name.to_string()), "must be given".to_owned()),
            Kind::UnknownField(name, _) => {
                (Some(name.clone()), "unknown field; look for the right name in the manual".to_owned())
            }
            other => (None, other.to_string()),
        };
        // A field that is missing does not stand in the path, one that is unknown may.
        let named = named.filter(|name| error.path.last() != Some(name));
        let path = [key.to_owned()].into_iter().chain(error.path.iter().cloned()).chain(named);
        SettingsError::invalid(path.collect::<Vec<_>>().join("."), problem)
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        runner: Runner,
        other: Option<String>,
        /// `make` sets one of these in the environment.
        #[serde(default)]
        embedded: Value,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Runner {
        window: usize,
        slots: usize,
    }

    const DEFAULTS: [&str; 2] = ["[runner]\nwindow = 640\nslots = 3", "other = 'text'"];

    fn with(text: &str) -> Result<Whole, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, text).unwrap();
        read(&DEFAULTS, Some(&path), &Value::Null)
    }

    #[test]
    fn a_file_changes_what_it_names() {
        let whole = with("[runner]\nwindow = 7").unwrap();
        assert_eq!((whole.runner, whole.other), (Runner { window: 7, slots: 3 }, Some("text".into())));
    }

    #[test]
    fn what_the_program_decides_wins_value_by_value() {
        let over = serde_json::json!({"runner": {"slots": 9}});
        let whole: Whole = read(&DEFAULTS, None, &over).unwrap();
        assert_eq!((whole.runner, whole.other), (Runner { window: 640, slots: 9 }, Some("text".into())));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, key) in [("[runner]\nwindoww = 7", "runner"), ("[runner]\nwindow = 'x'", "runner.window")] {
            let error = with(text).unwrap_err();
            assert!(error.key.starts_with(key) && error.problem.contains("my.toml"), "{error}");
        }
        assert!(with("[runner]\nwindoww = 7").unwrap_err().to_string().contains("windoww"));
    }

    #[test]
    fn a_part_is_laid_over_its_defaults_and_errors_name_its_place() {
        let read = |values| overlay::<Runner>("window = 640", &values, "parts.one");
        assert_eq!(read(serde_json::json!({"slots": 9})).unwrap(), Runner { window: 640, slots: 9 });
        for (values, expected) in [
            (serde_json::json!({}), "parts.one.slots: must be given"),
            (serde_json::json!({"slots": "x"}), "parts.one.slots: invalid type"),
            (serde_json::json!({"slots": 1, "slotss": 1}), "parts.one.slotss: unknown field"),
        ] {
            let error = read(values).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = read::<Whole>(&DEFAULTS, Some(Path::new("/nowhere/my.toml")), &Value::Null).unwrap_err();
        assert!(error.to_string().contains("/nowhere/my.toml"), "{error}");
    }
}
