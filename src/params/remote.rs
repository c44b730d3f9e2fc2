//! [`Remote`]: a source of a step that lies elsewhere, and the rules for it.

use super::{
    address::{Address, HubAddress, RepoKind, is_hex, is_revision},
    common::{Problem, StepParams},
};

/// A source that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The field that names it.
    pub field: &'static str,
    /// Its place among the files of this field.
    pub index: usize,
    /// Where it lies.
    pub address: Address,
    /// Digest that a web file must have.
    pub sha256: Option<String>,
    /// The commit that a hub address stands for, once it is known.
    pub commit: Option<String>,
}

impl Remote {
    /// What a commit is looked up for; none for what needs no commit.
    pub fn pin_name(&self) -> Option<String> {
        match &self.address {
            Address::Hub(hub) if hub.commit().is_none() => Some(hub.pin_name()),
            _ => None,
        }
    }

    /// What must be pinned before it has a key.
    pub fn unpinned(&self) -> Option<String> {
        if self.commit.is_some() { None } else { self.pin_name() }
    }

    /// The address that the step gets: at the commit, once it is known.
    pub fn resolved(&self) -> Address {
        match (&self.address, &self.commit) {
            (Address::Hub(hub), Some(commit)) => Address::Hub(hub.at(commit)),
            (address, _) => address.clone(),
        }
    }
}

/// The remote sources of a step's parameters, and what is wrong with them.
pub(super) fn remotes<P: StepParams>(params: &P) -> (Vec<Remote>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    let files = params.files();
    for (at, (field, file)) in files.iter().enumerate() {
        let index = files[..at].iter().filter(|(other, _)| other == field).count();
        // A text that is no list has no part 0; then the field itself is shown.
        let place = format!("{field}.{index}");
        let Some(address) = file.0.to_str().and_then(Address::parse) else { continue };
        match address {
            Err(error) => problems.push(Problem::new(place, error.message).hint(error.hint)),
            Ok(address) => match objection::<P>(field, &address) {
                Some((message, hint)) => problems.push(Problem::new(place, message).hint(hint)),
                None => found.push(Remote { field, index, address, sha256: None, commit: None }),
            },
        }
    }
    if problems.is_empty() {
        problems.extend(apply_revision(params.revision(), &mut found));
        problems.extend(apply_sha256(params.sha256(), &mut found));
    }
    (found, problems)
}

/// Why this field cannot take this address.
fn objection<P: StepParams>(field: &str, address: &Address) -> Option<(String, String)> {
    let Some(kind) = P::REMOTE.filter(|remote| remote.fields.contains(&field)).map(|remote| remote.kind)
    else {
        let hint = "let a `base` or `dataset` step fetch it";
        return Some((format!("`{field}` takes a path on this machine, not an address"), hint.to_owned()));
    };
    match address {
        Address::Hub(hub) if hub.kind != kind => {
            let right = HubAddress { kind, ..hub.clone() };
            let (is, step) = match hub.kind {
                RepoKind::Model => ("a model", "base"),
                RepoKind::Dataset => ("a dataset", "dataset"),
            };
            let hint = format!("write `{right}`, or use a `{step}` step");
            Some((format!("`{hub}` is {is} on the hub"), hint))
        }
        Address::Web(_) if field != "source" => {
            let hint = "fetch it by hand, or give an `hf://` address".to_owned();
            Some((format!("`{field}` cannot be an `https://` address"), hint))
        }
        _ => None,
    }
}

/// `revision:` belongs to the hub addresses of `source` that name none themselves.
fn apply_revision(revision: Option<&str>, found: &mut [Remote]) -> Option<Problem> {
    let revision = revision?;
    if !is_revision(revision) {
        let hint = "a branch, a tag or a commit, e.g. `main`";
        return Some(Problem::new("revision", format!("`{revision}` is not a revision")).hint(hint));
    }
    let mut used = false;
    for remote in found.iter_mut().filter(|remote| remote.field == "source") {
        if let Address::Hub(hub) = &mut remote.address {
            if let Some(given) = &hub.revision {
                let message = format!("the address names the revision `{given}` already");
                return Some(Problem::new("revision", message).hint("leave one of the two out"));
            }
            hub.revision = Some(revision.to_owned());
            used = true;
        }
    }
    (!used).then(|| Problem::new("revision", "is only for `hf://` sources"))
}

/// `sha256:` holds a digest for each `https://` source, in order.
fn apply_sha256(digests: &[String], found: &mut [Remote]) -> Option<Problem> {
    if let Some(bad) = digests.iter().find(|digest| !is_hex(digest, 64)) {
        let message = format!("`{bad}` is not a SHA-256 digest: 64 lower-case hex digits");
        return Some(Problem::new("sha256", message).hint("`sha256sum FILE` prints it"));
    }
    let web: Vec<&mut Remote> =
        found.iter_mut().filter(|remote| matches!(remote.address, Address::Web(_))).collect();
    if web.len() == digests.len() {
        for (remote, digest) in web.into_iter().zip(digests) {
            remote.sha256 = Some(digest.clone());
        }
        return None;
    }
    let hint = "`sha256sum FILE` prints it; several sources take a list, in their order";
    Some(match (web.len(), digests.len()) {
        (0, _) => Problem::new("sha256", "is only for `https://` sources"),
        (_, 0) => Problem::new("source", "an `https://` source needs its `sha256`").hint(hint),
        (web, digests) => {
            let message = format!("there are {digests} digests for {web} `https://` sources");
            Problem::new("sha256", message).hint(hint)
        }
    })
}
