//! Lines that the administrator adds to `pg_hba.conf` and `pg_ident.conf`. They are read as PostgreSQL of the cluster's version does
//! (`src/backend/libpq/hba.c`), and refused if it would refuse them: with an invalid line a running PostgreSQL keeps its previous rules,
//! and a stopped one does not start.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::file_access::User;
use host::settings::Settings;
use host::trouble::{Explain, in_line};
use host::{Root, fail};

/// Major and minor version of PostgreSQL, as far as both are part of its name.
pub type Version = (u32, u32);

/// A line ends with a backslash if it continues on the next one.
const CONTINUES_LINES: Version = (14, 0);

/// `include`, `include_if_exists` and `include_dir`; tokens of any length.
const INCLUDES: Version = (16, 0);

/// The bytes of a token before [`INCLUDES`] (`MAX_TOKEN`).
const LONGEST_TOKEN: usize = 255;

/// Which of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `pg_hba.conf`.
    Hba,
    /// `pg_ident.conf`.
    Ident,
}

/// A line as PostgreSQL divides it.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    fields: Vec<Vec<Token>>,
}

/// A part of a field; commas separate them.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    /// With its quotes.
    raw: String,
    text: String,
    /// Does it begin with a quote, so that it is no keyword?
    quoted: bool,
}

impl Token {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }

    /// The file that stands for a list of names.
    fn file(&self) -> Option<&str> {
        self.text.strip_prefix('@').filter(|name| !self.quoted && !name.is_empty())
    }
}

impl Line {
    /// As it is written to the file.
    #[must_use]
    pub fn text(&self) -> String {
        let field = |field: &Vec<Token>| field.iter().map(|token| token.raw.as_str()).collect::<Vec<_>>().join(",");
        self.fields.iter().map(field).collect::<Vec<_>>().join(" ")
    }

    /// The user name map to which a line of `pg_ident.conf` belongs.
    fn map(&self) -> Option<&str> {
        Some(self.fields.first()?.first()?.text.as_str())
    }
}

/// The lines of the file that a key names, without comments. `own` are user name maps that the administrator may not extend.
pub fn lines(
    root: &Root,
    settings: &Settings,
    key: &str,
    kind: Kind,
    version: Version,
    own: &[&str],
) -> Result<Vec<String>> {
    let Some(path) = settings.path(key)? else { return Ok(Vec::new()) };
    let read = settings.parse(key, |_| {
        let Some(text) = root.read(&path)? else { fail!("there is no file {}", path.display()) };
        let mut lines = Vec::new();
        for (number, text) in joined(&text, version) {
            let line = divide(&text, version)
                .and_then(|mut line| {
                    check(&line, kind, version)?;
                    if let Some(map) = line.map().filter(|map| kind == Kind::Ident && own.contains(map)) {
                        fail!("the user name map '{map}' is that of Patroni's own roles"; "Choose another name.");
                    }
                    name_files(&mut line, root, &path, version)?;
                    check_files(&line, root, version)?;
                    Ok(line)
                })
                .at(in_line(&path, number))?;
            if !line.fields.is_empty() {
                lines.push(line.text());
            }
        }
        Ok(lines)
    })?;
    Ok(read.unwrap_or_default())
}

/// The lines of a text in the form in which they are written, without those that PostgreSQL could not divide.
#[must_use]
pub fn texts(text: &str, version: Version) -> Vec<String> {
    let lines = joined(text, version).into_iter().filter_map(|(_, line)| divide(&line, version).ok());
    lines.filter(|line| !line.fields.is_empty()).map(|line| line.text()).collect()
}

/// The text of such a file as it can stand in another directory: what it names relative to its own one has an absolute name.
#[must_use]
pub fn movable(root: &Root, path: &Path, text: &str, version: Version) -> String {
    let absolute = |line: &str| {
        let mut divided = divide(line, version).ok()?;
        let before = divided.text();
        // What is wrong with a line is reported when it is used.
        name_files(&mut divided, root, path, version).ok()?;
        Some(divided.text()).filter(|after| *after != before)
    };
    let lines: Vec<String> =
        joined(text, version).into_iter().map(|(_, line)| absolute(&line).unwrap_or(line)).collect();
    lines.join("\n")
}

/// The lines with their continuations, each with the number of its first line (`tokenize_auth_file`).
fn joined(text: &str, version: Version) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (index, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let kept = line.strip_suffix('\\').filter(|_| version >= CONTINUES_LINES);
        match lines.last_mut().filter(|_| continues) {
            Some((_, last)) => last.push_str(kept.unwrap_or(line)),
            None => lines.push((index + 1, kept.unwrap_or(line).to_owned())),
        }
        continues = kept.is_some();
    }
    lines
}

/// Fields and tokens (`next_token` and `next_field_expand`). A quoted string that is not terminated ends with the line.
fn divide(line: &str, version: Version) -> Result<Line> {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\r');
    let mut chars = line.chars().peekable();
    let mut fields: Vec<Vec<Token>> = Vec::new();
    let mut comma = false;
    loop {
        while chars.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
        let mut token = Token { raw: String::new(), text: String::new(), quoted: false };
        let (mut in_quotes, mut was_quote, mut goes_on) = (false, false, false);
        while let Some(c) = chars.next_if(|c| in_quotes || !is_blank(*c)) {
            if c == '#' && !in_quotes {
                chars.by_ref().for_each(drop);
                break;
            }
            if c == ',' && !in_quotes {
                goes_on = true;
                break;
            }
            if c != '"' || was_quote {
                token.text.push(c);
            }
            // Two quotes in a quoted string are one.
            was_quote = in_quotes && c == '"' && !was_quote;
            if c == '"' {
                token.quoted |= token.raw.is_empty();
                in_quotes = !in_quotes;
            }
            token.raw.push(c);
        }
        if in_quotes {
            token.raw.push('"');
        }
        if token.raw.is_empty() {
            return Ok(Line { fields });
        }
        if version < INCLUDES && token.text.len() > LONGEST_TOKEN {
            fail!("'{}' is longer than {LONGEST_TOKEN} bytes", token.raw; "PostgreSQL {} cannot read it: use a shorter one.", version.0);
        }
        match fields.last_mut().filter(|_| comma) {
            Some(field) => field.push(token),
            None => fields.push(vec![token]),
        }
        comma = goes_on;
    }
}

/// Does the line include another file? PostgreSQL takes only the first name.
fn included(line: &Line, version: Version) -> Option<(&str, &str)> {
    let [directive, name] = line.fields.as_slice() else { return None };
    let (directive, name) = (directive.first()?, name.first()?);
    let known = ["include", "include_if_exists", "include_dir"].contains(&directive.text.as_str());
    (known && version >= INCLUDES).then_some((&directive.text, &name.text))
}

/// Makes the names of files absolute, since PostgreSQL reads the line elsewhere, and refuses files that are missing.
fn name_files(line: &mut Line, root: &Root, path: &Path, version: Version) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let find = |name: &str, needed: bool| -> Result<PathBuf> {
        let found = directory.join(name);
        if needed && !root.path(&found).exists() {
            fail!("there is no {}", found.display(); "Create it on all members, or correct the line.");
        }
        Ok(found)
    };
    if let Some((directive, name)) = included(line, version) {
        let found = find(name, directive != "include_if_exists")?;
        let directive = Token { raw: directive.to_owned(), text: directive.to_owned(), quoted: false };
        line.fields = vec![vec![directive], vec![quoted("", &found)]];
        return Ok(());
    }
    for token in line.fields.iter_mut().flatten() {
        if let Some(name) = token.file() {
            *token = quoted("@", &find(name, true)?);
        }
    }
    Ok(())
}

/// Refuses files that are there and that PostgreSQL could not read: it would keep its previous rules, or not start.
fn check_files(line: &Line, root: &Root, version: Version) -> Result<()> {
    let files: Vec<&str> = match included(line, version) {
        Some((_, name)) => vec![name],
        None => line.fields.iter().flatten().filter_map(Token::file).collect(),
    };
    for file in files.into_iter().map(Path::new).filter(|file| root.path(file).exists()) {
        User::of(root, "postgres")?.check_reads(root, file)?;
    }
    Ok(())
}

fn quoted(prefix: &str, path: &Path) -> Token {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    let raw = if plain { text.clone() } else { format!("\"{}\"", text.replace('"', "\"\"")) };
    Token { raw: format!("{prefix}{raw}"), text: format!("{prefix}{text}"), quoted: false }
}

/// Refuses what PostgreSQL would refuse.
fn check(line: &Line, kind: Kind, version: Version) -> Result<()> {
    if line.fields.is_empty() || included(line, version).is_some() {
        return Ok(());
    }
    match kind {
        Kind::Hba => check_hba(line, version),
        Kind::Ident => check_ident(line),
    }
}

/// The only token of a field.
fn one<'t>(field: &'t [Token], what: &str) -> Result<&'t Token> {
    if let [one] = field {
        return Ok(one);
    }
    let listed = field.iter().map(|token| token.raw.as_str()).collect::<Vec<_>>().join(",");
    fail!("'{listed}' is a list, but a line has only one {what}"; "Write one line for each.")
}

/// `parse_ident_line`.
fn check_ident(line: &Line) -> Result<()> {
    let (Some(map), Some(user), Some(role)) = (line.fields.first(), line.fields.get(1), line.fields.get(2)) else {
        fail!("the line is incomplete"; "Write MAP SYSTEM-USER ROLE.");
    };
    for (field, what) in [(map, "map"), (user, "system user"), (role, "role")] {
        one(field, what)?;
    }
    Ok(())
}

/// An option of a method, with the methods that have it (`parse_hba_auth_opt`).
const OPTIONS: &[(&str, &[&str])] = &[
    ("map", &["ident", "peer", "gss", "cert", "oauth"]),
    ("clientcert", &[]),
    ("clientname", &[]),
    ("pamservice", &["pam"]),
    ("pam_use_hostname", &["pam"]),
    ("ldapurl", &["ldap"]),
    ("ldaptls", &["ldap"]),
    ("ldapscheme", &["ldap"]),
    ("ldapserver", &["ldap"]),
    ("ldapport", &["ldap"]),
    ("ldapbinddn", &["ldap"]),
    ("ldapbindpasswd", &["ldap"]),
    ("ldapsearchattribute", &["ldap"]),
    ("ldapsearchfilter", &["ldap"]),
    ("ldapbasedn", &["ldap"]),
    ("ldapprefix", &["ldap"]),
    ("ldapsuffix", &["ldap"]),
    ("krb_realm", &["gss"]),
    ("include_realm", &["gss"]),
    ("radiusservers", &["radius"]),
    ("radiusports", &["radius"]),
    ("radiussecrets", &["radius"]),
    ("radiusidentifiers", &["radius"]),
    ("issuer", &["oauth"]),
    ("scope", &["oauth"]),
    ("validator", &["oauth"]),
    ("delegate_ident_mapping", &["oauth"]),
];

/// `parse_hba_line`.
fn check_hba(line: &Line, version: Version) -> Result<()> {
    const TYPES: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
    const METHODS: [&str; 13] = [
        "trust",
        "reject",
        "scram-sha-256",
        "md5",
        "password",
        "gss",
        "ident",
        "peer",
        "pam",
        "ldap",
        "radius",
        "cert",
        "oauth",
    ];
    let Some((kind, rest)) = line.fields.split_first() else { return Ok(()) };
    let kind = one(kind, "connection type")?.text.as_str();
    if !TYPES.contains(&kind) {
        if kind.starts_with("include") && version < INCLUDES {
            fail!("PostgreSQL {} cannot include files in pg_hba.conf", version.0; "Write the lines themselves.");
        }
        fail!("'{kind}' is not a connection type"; "Use one of {}.", TYPES.join(", "));
    }
    let [_database, _user, rest @ ..] = rest else {
        fail!("the line is incomplete"; "Write TYPE DATABASE USER [ADDRESS] METHOD [OPTION=VALUE...].");
    };
    let rest = if kind == "local" { rest } else { after_address(rest)? };
    let Some((method, options)) = rest.split_first() else {
        fail!("the authentication method is missing"; "Add it, for example scram-sha-256.");
    };
    let method = one(method, "authentication method")?.text.as_str();
    if !METHODS.contains(&method) || method == "oauth" && version < (18, 0) {
        fail!("'{method}' is not an authentication method"; "Use one of {}.", METHODS.join(", "));
    }
    match method {
        "peer" if kind != "local" => fail!("peer applies to local lines only"; "Choose another method."),
        "gss" if kind == "local" => fail!("gss does not apply to local lines"; "Choose another method."),
        "cert" if kind != "hostssl" => fail!("cert applies to hostssl lines only"; "Write hostssl."),
        _ => {}
    }
    let mut names = Vec::new();
    for option in options.iter().flatten() {
        let Some((name, value)) = option.text.split_once('=') else {
            fail!("'{}' follows the method, but is not OPTION=VALUE", option.raw);
        };
        check_option(kind, method, name, value)?;
        names.push(name);
    }
    let needs = |any: &[&str]| any.iter().any(|name| names.contains(name));
    match method {
        "ldap" if !needs(&["ldapurl", "ldapbasedn", "ldapprefix", "ldapsuffix"]) => {
            fail!("ldap needs ldapurl, ldapbasedn, ldapprefix or ldapsuffix"; "Add one of them.")
        }
        "radius" if !needs(&["radiusservers"]) || !needs(&["radiussecrets"]) => {
            fail!("radius needs radiusservers and radiussecrets"; "Add them.")
        }
        "oauth" if !needs(&["issuer"]) || !needs(&["scope"]) => fail!("oauth needs issuer and scope"; "Add them."),
        _ => Ok(()),
    }
}

fn check_option(kind: &str, method: &str, name: &str, value: &str) -> Result<()> {
    let Some((_, methods)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
        fail!("'{name}' is not an option of a method"; "Correct or remove it.");
    };
    if !methods.is_empty() && !methods.contains(&method) {
        fail!("{name} is an option of {}, not of {method}", methods.join(", "); "Remove it.");
    }
    let values: &[&str] = match name {
        "clientcert" => &["verify-ca", "verify-full", "no-verify", "1", "0"],
        "clientname" => &["CN", "DN"],
        _ => return Ok(()),
    };
    if kind != "hostssl" {
        fail!("{name} applies to hostssl lines only"; "Write hostssl.");
    }
    if !values.contains(&value) {
        fail!("{name} cannot be '{value}'"; "Use {}.", values[..2].join(" or "));
    }
    Ok(())
}

/// The fields after the address, which is a network, an address with a mask, a name or a keyword.
fn after_address(fields: &[Vec<Token>]) -> Result<&[Vec<Token>]> {
    let Some((address, rest)) = fields.split_first() else {
        fail!("the address is missing"; "Add it, for example 10.0.0.0/8 or all.");
    };
    let address = one(address, "address")?;
    if ["all", "samehost", "samenet"].iter().any(|keyword| address.is(keyword)) {
        return Ok(rest);
    }
    let text = address.text.as_str();
    let Some((network, prefix)) = text.split_once('/') else {
        let Some(own) = bits(text) else { return Ok(rest) };
        return match rest.split_first() {
            Some((mask, rest)) if one(mask, "mask").is_ok_and(|mask| bits(&mask.text) == Some(own)) => Ok(rest),
            _ => fail!("{text} has no prefix length"; "Write {text}/32 for one host (IPv6: /128)."),
        };
    };
    let length = prefix.parse::<u32>().ok();
    match (bits(network), length) {
        (Some(most), Some(length)) if length <= most => Ok(rest),
        _ => fail!("'{text}' is not an address"; "Write 10.0.0.0/8, a host name, samenet, samehost or all."),
    }
}

/// The number of bits of an IP address; `None` for what is a name to PostgreSQL. An IPv6 address can have a zone, and an IPv4
/// address fewer than four parts (`getaddrinfo` with `AI_NUMERICHOST`, inet(3)).
fn bits(text: &str) -> Option<u32> {
    match text.split_once('%').map_or(text, |(address, _)| address).parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => return Some(128),
        Ok(IpAddr::V4(_)) if !text.contains('%') => return Some(32),
        _ => {}
    }
    let number = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, others) = parts.split_last()?;
    let room = 32_u32.checked_sub(8 * u32::try_from(others.len()).ok()?).filter(|room| *room > 0)?;
    let fits = others.iter().all(|part| *part < 256) && u64::from(*last) < 1 << room;
    (fits && !text.contains('+')).then_some(32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use host::trouble::Trouble;

    const NEWEST: Version = (18, 0);

    fn read(line: &str, kind: Kind, version: Version) -> Result<String> {
        let line = divide(line, version)?;
        check(&line, kind, version)?;
        Ok(line.text())
    }

    #[test]
    fn names_stay_right_in_another_directory() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let directory = root.path("/etc/postgresql/17/main");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("admins"), "").unwrap();
        let text = "# a comment \\\n# and its end\nlocal all @admins peer # mine\nlocal  all all peer\n";
        let moved = movable(&root, Path::new("/etc/postgresql/17/main/pg_hba.conf"), text, (17, 0));
        assert!(moved.contains("\nlocal all @/etc/postgresql/17/main/admins peer\nlocal  all all peer\n"), "{moved}");
    }

    #[test]
    fn lines_of_pg_hba_that_postgresql_accepts() {
        for (line, text) in [
            ("", ""),
            ("   # comment", ""),
            ("local all all peer", "local all all peer"),
            ("host all all 10.0.0.0/8 scram-sha-256 # the office", "host all all 10.0.0.0/8 scram-sha-256"),
            (
                "host \"my db\",other, third +staff,\"A\" 10.0.0.1\t255.255.255.255 reject",
                "host \"my db\",other,third +staff,\"A\" 10.0.0.1 255.255.255.255 reject",
            ),
            ("hostssl app app fd00::/64 cert map=people clientname=DN", ""),
            ("hostssl all all fe80::1%eth0/64 md5 clientcert=verify-full", ""),
            ("host all all .example.org ldap ldapserver=ldap.example.org \"ldapprefix=cn=\"", ""),
            ("host all all ::0/0 ldap ldapurl=\"ldap://ldap.example.org/dc=example?uid?sub\"", ""),
            ("host replication standby samenet scram-sha-256", ""),
            ("host all all samehost trust", ""),
            ("host \"all\" \"/^app_[0-9]{1,2}$\" all scram-sha-256", ""),
            ("host all /^x\\d$ 10.1/16 md5", ""),
            ("host all all \"#host\" pam pamservice=\"post gres\" pam_use_hostname=1", ""),
            ("local all all ident map=\"a, \"\"b\"\"\"", ""),
            ("hostgssenc all all 0.0.0.0/0 gss include_realm=0 krb_realm=EXAMPLE.ORG", ""),
            ("host all all all radius radiusservers=\"a,b\" radiussecrets=s", ""),
            ("host all all all oauth issuer=https://i.example.org scope=\"openid email\"", ""),
            // The quote takes the rest of the line.
            ("host all all all ldap \"ldapprefix=cn= # x", "host all all all ldap \"ldapprefix=cn= # x\""),
        ] {
            let written = read(line, Kind::Hba, NEWEST).unwrap();
            let expected = if text.is_empty() && line.starts_with(char::is_alphabetic) { line } else { text };
            assert_eq!(written, expected);
            assert_eq!(divide(&written, NEWEST).unwrap(), divide(line, NEWEST).unwrap());
        }
    }

    #[test]
    fn lines_of_pg_hba_that_postgresql_refuses() {
        for (line, word) in [
            ("hots all all all trust", "connection type"),
            ("include", "connection type"),
            ("include a b", "connection type"),
            ("host,local all all all trust", "only one connection type"),
            ("host all", "incomplete"),
            ("host all all scram-sha-256", "method is missing"),
            ("local all \"all peer", "method is missing"),
            ("host all all", "address is missing"),
            ("host all all 10.0.0.1 trust", "no prefix length"),
            ("host all all 10.0.0.1 ::1 trust", "no prefix length"),
            ("host all all 10.0.0.0/33 trust", "not an address"),
            ("host all all example.org/8 trust", "not an address"),
            ("host all all \"samenet\"/8 trust", "not an address"),
            ("host all all 10.0.0.0/8,11.0.0.0/8 trust", "only one address"),
            ("host all all all scram", "not an authentication method"),
            ("host all all all peer", "local"),
            ("local all all gss", "local"),
            ("host all all all cert", "hostssl"),
            ("host all all all md5 clientcert=verify-ca", "hostssl"),
            ("hostssl all all all md5 clientcert=yes", "cannot be 'yes'"),
            ("local all all peer map", "OPTION=VALUE"),
            ("local all all peer mapp=x", "not an option"),
            ("local all all md5 map=x", "not of md5"),
            ("host all all all ldap ldapserver=x", "needs ldapurl"),
            ("host all all all radius radiusservers=x", "radiussecrets"),
        ] {
            let error = read(line, Kind::Hba, NEWEST).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
        let old = |line: &str| read(line, Kind::Hba, (15, 0)).unwrap_err().to_string();
        assert!(old("include x").contains("cannot include"));
        assert!(old("host all all all oauth issuer=i scope=s").contains("not an authentication method"));
        assert!(old(&format!("local {} all peer", "x".repeat(256))).contains("255 bytes"));
    }

    #[test]
    fn lines_of_pg_ident() {
        for line in
            ["people alice app", "people /^(.*)@example\\.org$ \\1", "\"my map\" \"a b\" +staff", "m u all more"]
        {
            assert_eq!(read(line, Kind::Ident, NEWEST).unwrap(), line);
        }
        for (line, word) in [("people alice", "incomplete"), ("people alice,bob app", "only one system user")] {
            let error = read(line, Kind::Ident, NEWEST).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn lines_continue_since_version_14() {
        let text = "a \\\n b\\\\\n\\\nc\r\n# d \\\n e\nf";
        let lines = |version| joined(text, version).into_iter().map(|(number, line)| format!("{number}:{line}"));
        assert_eq!(lines((14, 0)).collect::<Vec<_>>(), ["1:a  b\\c", "5:# d  e", "7:f"]);
        assert_eq!(lines((13, 0)).count(), 7);
    }

    #[test]
    fn files_are_named_absolutely_and_exist() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let mode = |path: &str, mode| {
            std::fs::set_permissions(folder.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("", 0o755);
        std::fs::create_dir_all(folder.path().join("etc/a b")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "postgres:x:103:106::/:/bin/sh\n").unwrap();
        std::fs::write(folder.path().join("etc/group"), "postgres:x:106:\n").unwrap();
        for name in ["x", "a b/y"] {
            std::fs::write(folder.path().join("etc").join(name), "app\n").unwrap();
        }
        let mut settings = Settings::default();
        settings.set("PG_HBA_FILE=/etc/hba").unwrap();
        settings.set("PG_IDENT_FILE=/etc/ident").unwrap();
        let read = |key, text: &str| {
            let (name, kind) = if key == "PG_HBA_FILE" { ("hba", Kind::Hba) } else { ("ident", Kind::Ident) };
            std::fs::write(folder.path().join("etc").join(name), text).unwrap();
            lines(&root, &settings, key, kind, NEWEST, &["patroni"]).map_err(|error| {
                let Trouble { hint, .. } = Trouble::of(&error);
                format!("{}\n{}", Trouble::of(&error).line(), hint.unwrap_or_default())
            })
        };
        let text = "include x\ninclude_if_exists nothing # yet\ninclude_dir 'a\ninclude_dir \"a b\"\nlocal @x,u @\"a b/y\" md5\n";
        let written = read("PG_HBA_FILE", &text.replace("include_dir 'a\n", "")).unwrap();
        assert_eq!(
            written,
            [
                "include /etc/x",
                "include_if_exists /etc/nothing",
                "include_dir \"/etc/a b\"",
                "local @/etc/x,u @\"/etc/a b/y\" md5"
            ]
        );
        assert_eq!(
            read("PG_HBA_FILE", "\ninclude y\n").unwrap_err(),
            "--set: PG_HBA_FILE: /etc/hba:2: there is no /etc/y\nCreate it on all members, or correct the line."
        );
        mode("etc/x", 0o600);
        for line in ["include x", "local @x all md5"] {
            let error = read("PG_HBA_FILE", line).unwrap_err();
            assert!(error.contains("/etc/hba:1: ") && error.contains("postgres cannot read"), "{error}");
        }
        mode("etc/x", 0o644);
        assert!(read("PG_HBA_FILE", "local @nobody all md5").unwrap_err().contains("there is no /etc/nobody"));
        assert_eq!(read("PG_IDENT_FILE", "# x\nm a \\\n  b\n").unwrap(), ["m a b"]);
        assert!(
            read("PG_IDENT_FILE", "m a b\npatroni x y")
                .unwrap_err()
                .contains("/etc/ident:2: the user name map 'patroni'")
        );
    }

    #[test]
    fn an_error_has_a_hint() {
        let error = read("host all all 10.0.0.1 trust", Kind::Hba, NEWEST).unwrap_err();
        assert_eq!(Trouble::of(&error).hint.as_deref(), Some("Write 10.0.0.1/32 for one host (IPv6: /128)."));
    }
}
