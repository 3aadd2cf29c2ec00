//! The accounts of a nats-server that serves Chasqui and producers whom its operator does not own.
//!
//! Guarantee: an app's users reach the subjects of their own app, and nothing else. Each app has an account. Its account
//! imports the subjects that the app submits on as services: the reply subject that JetStream acknowledges to is then the
//! server's own, and the acknowledgement comes back to the producer through the server. With permissions alone, a producer
//! could name any subject as its reply, and JetStream would store the acknowledgement there with the server's rights. The
//! app's rejections and inboxes are imported as streams, which carry messages one way. JetStream is not enabled for apps.
//!
//! Chasqui has an account too, with a user for each process's key and exactly the permissions of [`permission`]. A key's
//! answers come to an inbox below its own name, which no other key may subscribe to.
//!
//! The text depends on the settings only, and holds no secret. It is what stands between the braces of `accounts {}`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use chasqui_schemas::{
    Lane,
    permission::{self, Role},
    subject,
};
use chasqui_settings::SettingsError;

use crate::key::PublicKey;

/// Chasqui's account. The account of an app begins with `APP_`, so no app has this name.
const CHASQUI: &str = "CHASQUI";

/// `[nats.keys]`: the keys of our own processes, by what they do. One that does several things stands in several lists.
pub type Keys = BTreeMap<Role, Vec<PublicKey>>;

/// An app, as nats-server has to know it.
#[derive(Debug, Clone, Copy)]
pub struct App<'a> {
    /// Its name.
    pub name: &'a str,
    /// The lanes that it may use.
    pub lanes: &'a [Lane],
    /// Keys of its producers, any of which lets in. Without one it has no account.
    pub keys: &'a [PublicKey],
    /// Maximum bytes of a message that it publishes, its headers included; `None`: what the server takes of everybody.
    pub max_payload_bytes: Option<u32>,
}

/// The prefix of the subjects that answers come to, for a connection with this key.
pub fn inbox(prefix: &str, key: &PublicKey) -> String {
    format!("{prefix}.{key}")
}

/// The name of an app's account.
pub fn account(app: &str) -> String {
    format!("APP_{app}")
}

/// What stands between the braces of `accounts {}` in nats.conf. `inbox_prefix` is the setting `nats.inbox_prefix`.
///
/// # Errors
/// A name cannot be an app's, a key lets into two accounts, or no key is known that could do Chasqui's own work.
pub fn configuration(inbox_prefix: &str, keys: &Keys, apps: &[App<'_>]) -> Result<String, SettingsError> {
    check(keys, apps)?;
    let apps: Vec<&App<'_>> = apps.iter().filter(|app| !app.keys.is_empty()).collect();
    let mut text = format!(
        "# Accounts for Chasqui and its apps, written by `chasqui apps nats-config`. Do not edit: change the settings\n\
         # `nats.keys` and `apps.<name>.nats_keys`, and write it again. It holds no secret.\n\
         {CHASQUI} {{\n  jetstream: enabled\n  users: [\n"
    );
    for (key, roles) in users(keys) {
        let words: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        let publish: BTreeSet<String> = roles.iter().flat_map(|role| role.publishes()).collect();
        // Writing to a String cannot fail.
        _ = writeln!(text, "    # {}\n    {{ nkey: \"{key}\", permissions: {{\n      publish: [", words.join(", "));
        for subject in publish {
            _ = writeln!(text, "        \"{subject}\"");
        }
        let subscribe = permission::subscribes(&inbox(inbox_prefix, key));
        _ = writeln!(text, "      ]\n      subscribe: [\"{subscribe}\"]\n    }} }}");
    }
    text += "  ]\n  exports: [\n";
    for app in &apps {
        let account = account(app.name);
        for lane in app.lanes {
            let subject = subject::submit(*lane, app.name);
            _ = writeln!(text, "    {{ service: \"{subject}\", response_type: singleton, accounts: [\"{account}\"] }}");
        }
        for subject in streams(app.name) {
            _ = writeln!(text, "    {{ stream: \"{subject}\", accounts: [\"{account}\"] }}");
        }
    }
    text += "  ]\n}\n";
    for app in &apps {
        _ = writeln!(text, "\"{}\" {{\n  users: [", account(app.name));
        for key in app.keys {
            _ = writeln!(text, "    {{ nkey: \"{key}\" }}");
        }
        text += "  ]\n  imports: [\n";
        for lane in app.lanes {
            let subject = subject::submit(*lane, app.name);
            _ = writeln!(text, "    {{ service: {{ account: {CHASQUI}, subject: \"{subject}\" }} }}");
        }
        for subject in streams(app.name) {
            _ = writeln!(text, "    {{ stream: {{ account: {CHASQUI}, subject: \"{subject}\" }} }}");
        }
        text += "  ]\n";
        if let Some(bytes) = app.max_payload_bytes {
            _ = writeln!(text, "  limits {{ max_payload: {bytes} }}");
        }
        text += "}\n";
    }
    Ok(text)
}

/// What an app may listen to.
fn streams(app: &str) -> [String; 2] {
    [subject::rejected(app), subject::app_inboxes(app)]
}

/// The users of Chasqui's account, each with its roles.
fn users(keys: &Keys) -> BTreeMap<&PublicKey, Vec<Role>> {
    let mut users: BTreeMap<&PublicKey, Vec<Role>> = BTreeMap::new();
    for (role, keys) in keys {
        for key in keys {
            users.entry(key).or_default().push(*role);
        }
    }
    users
}

fn check(keys: &Keys, apps: &[App<'_>]) -> Result<(), SettingsError> {
    let ours = users(keys);
    for role in [Role::Operator, Role::Stages] {
        if keys.get(&role).is_none_or(Vec::is_empty) {
            let problem = "name a public key: nats-server would let nobody in who can do this work. `chasqui apps nats-key FILE` makes one";
            return Err(SettingsError::invalid(format!("nats.keys.{role}"), problem));
        }
    }
    let mut owners: BTreeMap<&PublicKey, String> = ours.keys().map(|key| (*key, "nats.keys".to_owned())).collect();
    for app in apps {
        if !subject::is_app(app.name) {
            let problem = "cannot be an app: use 1 to 64 letters, digits, `-` and `_`";
            return Err(SettingsError::invalid(format!("apps.{}", app.name), problem));
        }
        let setting = format!("apps.{}.nats_keys", app.name);
        for key in app.keys {
            if let Some(other) = owners.insert(key, setting.clone()) {
                return Err(SettingsError::invalid(setting, format!("{key} is in {other} too: a key belongs to one")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key;

    fn public() -> PublicKey {
        key::make().unwrap().1
    }

    fn ours() -> Keys {
        Keys::from([(Role::Stages, vec![public()]), (Role::Operator, vec![public()])])
    }

    fn app<'a>(name: &'a str, keys: &'a [PublicKey]) -> App<'a> {
        App { name, lanes: &[Lane::Bulk], keys, max_payload_bytes: None }
    }

    #[test]
    fn an_app_imports_its_own_subjects_and_lanes_and_nothing_else() {
        let (shop, crm) = ([public()], [public(), public()]);
        let text = configuration("_INBOX_x", &ours(), &[app("shop", &shop), app("crm", &crm)]).unwrap();
        let (_, account) = text.split_once("\"APP_shop\" {").unwrap();
        let account = account.split("\n}\n").next().unwrap();
        let imports: Vec<&str> =
            account.split("subject: \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(imports, ["notify.submit.bulk.shop", "notify.rejected.shop", "inbox.shop.*"]);
        assert!(
            account.contains(shop[0].as_str()) && !account.contains(crm[0].as_str()) && !account.contains("jetstream")
        );
        let exports = text.lines().filter(|line| line.contains("accounts: "));
        for export in exports {
            let app = if export.contains("shop") { "shop" } else { "crm" };
            assert!(export.contains(&format!("accounts: [\"APP_{app}\"]")), "{export}");
        }
    }

    #[test]
    fn a_key_of_ours_has_the_rights_of_its_roles_and_an_inbox_of_its_own() {
        let both = public();
        let mut keys = ours();
        keys.insert(Role::Gateway, vec![both.clone()]);
        keys.insert(Role::Services, vec![both.clone()]);
        let text = configuration("_INBOX_x", &keys, &[]).unwrap();
        let (_, user) = text.split_once(&format!("# services, gateway\n    {{ nkey: \"{both}\"")).unwrap();
        let user = user.split("} }").next().unwrap();
        assert!(user.contains("\"notify.receipt.*.*\"") && user.contains("\"$JS.API.STREAM.PURGE.TRACES\""));
        assert!(user.contains(&format!("subscribe: [\"_INBOX_x.{both}.>\"]")), "{user}");
    }

    #[test]
    fn an_app_without_a_key_has_no_account() {
        assert!(!configuration("_INBOX_x", &ours(), &[app("shop", &[])]).unwrap().contains("shop"));
    }

    #[test]
    fn what_would_lock_out_or_mix_up_is_refused_by_its_setting() {
        let keys = ours();
        let shared = [keys[&Role::Stages][0].clone()];
        let other = [public()];
        let error = |keys: &Keys, apps: &[App<'_>]| configuration("_INBOX_x", keys, apps).unwrap_err().key;
        assert_eq!(error(&Keys::new(), &[]), "nats.keys.operator");
        assert_eq!(error(&keys, &[app("shop", &shared)]), "apps.shop.nats_keys");
        assert_eq!(error(&keys, &[app("crm", &other), app("shop", &other)]), "apps.shop.nats_keys");
        assert_eq!(error(&keys, &[app("a\" {", &other)]), "apps.a\" {");
    }
}
