//! Secrets in files: who may have them, and the TSIG key as BIND's `tsig-keygen(8)` writes it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use domain::tsig::{Algorithm, Key, KeyName};
use domain::utils::base64;
use site::Root;

/// More than any key or password needs.
const LIMIT: u64 = 65_536;

/// Reads a file with a secret, if it is as safe as it must be.
///
/// The program runs as postgres, so the file is readable by that group; it is root's, so that postgres cannot register
/// under a key of its own choice.
pub(super) fn read_secret(root: &Root, path: &Path) -> Result<Vec<u8>> {
    let remedy = || format!("chown root:postgres {0} && chmod 0640 {0}", path.display());
    let file = File::open(root.path(path)).with_context(|| format!("cannot read {} ({})", path.display(), remedy()))?;
    let metadata = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a file", path.display());
    if let Some(fault) = unsafe_because(metadata.uid(), metadata.mode()) {
        bail!("{} {fault}: {}", path.display(), remedy());
    }
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= LIMIT, "{} is too long for a secret", path.display());
    Ok(bytes)
}

/// Why a file is no place for a secret.
fn unsafe_because(owner: u32, mode: u32) -> Option<&'static str> {
    if owner != 0 {
        Some("does not belong to root")
    } else if mode & 0o020 != 0 {
        Some("can be written by its group")
    } else if mode & 0o007 != 0 {
        Some("is open to all users")
    } else {
        None
    }
}

/// A key that more than one owner may hold; the crate's transactions want to own it.
#[derive(Clone)]
pub(super) struct SharedKey(Arc<Key>);

impl AsRef<Key> for SharedKey {
    fn as_ref(&self) -> &Key {
        &self.0
    }
}

/// A shared key (RFC 8945).
pub(super) struct Tsig(SharedKey);

impl Tsig {
    /// Reads the key of a file.
    pub(super) fn read(root: &Root, path: &Path) -> Result<Self> {
        let bytes = read_secret(root, path)?;
        // No part of the file goes into an error: what stands in a wrong place may be the secret.
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", path.display()))?;
        Self::parse(text).map_err(|(line, fault)| {
            anyhow::anyhow!("{}:{line}: {fault}; tsig-keygen writes such a file", path.display())
        })
    }

    /// The key in the text of such a file.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        parse(text)
    }

    pub(super) fn key(&self) -> SharedKey {
        self.0.clone()
    }
}

/// A fault, with its line from 1.
pub(super) type Fault = (usize, String);

fn parse(text: &str) -> Result<Tsig, Fault> {
    let mut tokens = tokens(text)?.into_iter().peekable();
    let last_line = text.lines().count().max(1);
    let mut next =
        |what: &str| tokens.next().ok_or_else(|| (last_line, format!("the file ends where {what} should be")));
    let fixed = |(line, token): (usize, String), wanted: &str| {
        if token == wanted { Ok(()) } else { Err((line, format!("no '{wanted}' where it should be"))) }
    };
    fixed(next("'key'")?, "key")?;
    let (line, name) = next("the name of the key")?;
    let name = KeyName::from_str(&name).map_err(|_| (line, "the name of the key is not a DNS name".to_owned()))?;
    fixed(next("'{'")?, "{")?;
    let (mut algorithm, mut secret) = (None, None);
    let end = loop {
        let (line, word) = next("'}'")?;
        match word.as_str() {
            "}" => break line,
            "algorithm" => algorithm = Some(parse_algorithm(next("the algorithm")?)?),
            "secret" => {
                let (line, value) = next("the secret")?;
                let bytes: Vec<u8> =
                    base64::decode(&value).map_err(|_| (line, "the secret is not base64".to_owned()))?;
                if bytes.is_empty() {
                    return Err((line, "the secret is empty".to_owned()));
                }
                secret = Some(bytes);
            }
            _ => return Err((line, "neither 'algorithm' nor 'secret'".to_owned())),
        }
        fixed(next("';'")?, ";")?;
    };
    fixed(next("';'")?, ";")?;
    if let Ok((line, _)) = next("the end") {
        return Err((line, "there is more than one key".to_owned()));
    }
    let algorithm = algorithm.ok_or((end, "the key has no algorithm".to_owned()))?;
    let secret = secret.ok_or((end, "the key has no secret".to_owned()))?;
    let key = Key::new(algorithm, &secret, name, None, None).map_err(|error| (end, error.to_string()))?;
    Ok(Tsig(SharedKey(Arc::new(key))))
}

fn parse_algorithm((line, word): (usize, String)) -> Result<Algorithm, Fault> {
    let name = word.to_ascii_lowercase();
    name.parse().map_err(|_| {
        let named =
            if name.starts_with("hmac-") { format!("the algorithm {name}") } else { "the algorithm".to_owned() };
        (line, format!("{named} is none of hmac-sha256, hmac-sha384, hmac-sha512 and hmac-sha1"))
    })
}

/// The words of a file in the grammar of named.conf, each with its line.
fn tokens(text: &str) -> Result<Vec<(usize, String)>, Fault> {
    let mut found = Vec::new();
    let mut rest = text;
    let line_of = |rest: &str| 1 + text[..text.len() - rest.len()].matches('\n').count();
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return Ok(found) };
        let line = line_of(rest);
        if first == '#' || rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map(|end| &rest[end + 2..]).ok_or((line, "a comment without end".to_owned()))?;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (word, after) = quoted.split_once('"').ok_or((line, "a quote without end".to_owned()))?;
            found.push((line, word.to_owned()));
            rest = after;
        } else if "{};".contains(first) {
            found.push((line, first.to_string()));
            rest = &rest[1..];
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "{};\"#".contains(c)).unwrap_or(rest.len());
            found.push((line, rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "key \"updkey\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0\";\n};\n";

    fn fault(text: &str) -> Fault {
        parse(text).err().unwrap()
    }

    #[test]
    fn what_tsig_keygen_writes() {
        let key = parse(GOOD).unwrap().key();
        assert_eq!(key.as_ref().name().to_string(), "updkey");
        assert_eq!(key.as_ref().algorithm(), Algorithm::Sha256);
        for algorithm in ["hmac-sha1", "hmac-sha384", "HMAC-SHA512"] {
            assert!(parse(&GOOD.replace("hmac-sha256", algorithm)).is_ok(), "{algorithm}");
        }
    }

    #[test]
    fn comments_and_one_line() {
        assert!(parse("# a\n// b\n/* c\n */ key updkey { secret \"c2VjcmV0\"; algorithm hmac-sha1; }; # end").is_ok());
    }

    #[test]
    fn faults_have_a_line_and_no_secret() {
        let cases = [
            (GOOD.replace("hmac-sha256", "hmac-md5"), 2, "hmac-md5"),
            (GOOD.replace("c2Vj", "?2Vj"), 3, "not base64"),
            (GOOD.replace("\tsecret ", "\t"), 3, "neither 'algorithm'"),
            (GOOD.replace("\tsecret \"c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0\";\n", ""), 3, "no secret"),
            (GOOD.replace("};", ""), 4, "the file ends"),
            (format!("{GOOD}{GOOD}"), 5, "more than one key"),
            ("Private-key-format: v1.3\nKey: c2VjcmV0\n".to_owned(), 1, "no 'key'"),
            (String::new(), 1, "the file ends"),
            ("key a { secret \"c2VjcmV0".to_owned(), 1, "quote"),
            (GOOD.replace("algorithm hmac-sha256", "algorithm c2VjcmV0"), 2, "the algorithm is none of"),
        ];
        for (text, line, part) in cases {
            let (found, message) = fault(&text);
            assert!(found == line && message.contains(part), "{found}: {message} for {text}");
            assert!(!message.contains("2VjcmV0"), "{message}");
        }
    }

    #[test]
    fn a_secret_is_for_root_and_a_group() {
        assert_eq!(unsafe_because(0, 0o100_640), None);
        assert_eq!(unsafe_because(0, 0o100_600), None);
        assert_eq!(unsafe_because(112, 0o100_600), Some("does not belong to root"));
        assert_eq!(unsafe_because(0, 0o100_660), Some("can be written by its group"));
        assert_eq!(unsafe_because(0, 0o100_644), Some("is open to all users"));
    }
}
