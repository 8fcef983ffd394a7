//! Files with secrets: their permissions, and the TSIG key as BIND's `tsig-keygen(8)` writes it.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use domain::tsig::{Algorithm, Key, KeyName};
use domain::utils::base64;
use host::trouble::in_line;
use host::{Root, keys};
use host::{fail, trouble};

/// Reads a file with a secret; an error if other users can read it.
pub(super) fn read_secret(root: &Root, path: &Path) -> Result<Vec<u8>> {
    match keys::secret_bytes(root, path, keys::FOR_POSTGRES)? {
        Some(bytes) => Ok(bytes),
        None => fail!("there is no file {}", path.display(); "Create it, or correct the setting that names it."),
    }
}

/// A shared reference to a key, since each transaction of the crate owns one.
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
        // No part of the file is shown in an error: a misplaced word may be the secret.
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not valid UTF-8", path.display()))?;
        Self::parse(text).map_err(|(line, fault)| {
            trouble!(at in_line(path, line), "{fault}"; "Create the file with tsig-keygen.").into()
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

/// A fault with its line, counted from 1.
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
        return Err((line, "it has more than one key".to_owned()));
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
            rest = rest.find("*/").map(|end| &rest[end + 2..]).ok_or((line, "unterminated comment".to_owned()))?;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (word, after) = quoted.split_once('"').ok_or((line, "unterminated quoted string".to_owned()))?;
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
            ("key a { secret \"c2VjcmV0".to_owned(), 1, "quoted string"),
            (GOOD.replace("algorithm hmac-sha256", "algorithm c2VjcmV0"), 2, "the algorithm is none of"),
        ];
        for (text, line, part) in cases {
            let (found, message) = fault(&text);
            assert!(found == line && message.contains(part), "{found}: {message} for {text}");
            assert!(!message.contains("2VjcmV0"), "{message}");
        }
    }
}
