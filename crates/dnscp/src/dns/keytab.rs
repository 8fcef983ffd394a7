//! The accounts in a keytab: `KRB5_CLIENT_KTNAME` always uses the first one.

use anyhow::{Context, Result};
use host::fail;

/// The accounts in their order, as `name@REALM`. Format: "Keytab file format" of the MIT Kerberos documentation, version
/// 0x502 (all numbers big-endian).
pub(super) fn accounts(bytes: &[u8]) -> Result<Vec<String>> {
    let mut rest = bytes;
    if take(&mut rest, 2)? != [5, 2] {
        fail!("it has no header of a keytab");
    }
    let mut found: Vec<String> = Vec::new();
    while rest.len() >= 4 {
        let length = i32::from_be_bytes(take(&mut rest, 4)?.try_into()?);
        if length == 0 {
            break;
        }
        let mut entry = take(&mut rest, usize::try_from(length.unsigned_abs())?)?;
        // A hole has a negative length.
        if length < 0 {
            continue;
        }
        let components = number(&mut entry)?;
        let realm = text(&mut entry)?;
        let parts = (0..components).map(|_| text(&mut entry)).collect::<Result<Vec<_>>>()?;
        let account = format!("{}@{realm}", parts.join("/"));
        if !found.contains(&account) {
            found.push(account);
        }
    }
    Ok(found)
}

/// Whether it is the configured account, with or without its realm.
pub(super) fn same(account: &str, principal: &str) -> bool {
    account == principal || account.rsplit_once('@').is_some_and(|(name, _)| name == principal)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count).context("it is truncated")?;
    *rest = tail;
    Ok(head)
}

fn number(rest: &mut &[u8]) -> Result<usize> {
    Ok(usize::from(u16::from_be_bytes(take(rest, 2)?.try_into()?)))
}

fn text(rest: &mut &[u8]) -> Result<String> {
    let length = number(rest)?;
    Ok(String::from_utf8_lossy(take(rest, length)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(parts: &[&str], realm: &str) -> Vec<u8> {
        let length = |count: usize| u16::try_from(count).unwrap().to_be_bytes().to_vec();
        let mut bytes = length(parts.len());
        for word in std::iter::once(&realm).chain(parts) {
            bytes.extend(length(word.len()));
            bytes.extend(word.bytes());
        }
        bytes.extend([0; 13]);
        [u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec(), bytes].concat()
    }

    #[test]
    fn accounts_in_order_and_holes() {
        let hole = [(-3i32).to_be_bytes().to_vec(), vec![1, 2, 3]].concat();
        let bytes =
            [vec![5, 2], hole, entry(&["host", "pg1"], "A.B"), entry(&["pgsql$"], "A.B"), entry(&["pgsql$"], "A.B")]
                .concat();
        assert_eq!(accounts(&bytes).unwrap(), ["host/pg1@A.B", "pgsql$@A.B"]);
        assert!(same("pgsql$@A.B", "pgsql$") && same("pgsql$@A.B", "pgsql$@A.B") && !same("pgsql$@A.B", "pgsql$@C.D"));
    }

    #[test]
    fn a_truncated_file_is_an_error_and_no_panic() {
        let whole = [vec![5, 2], entry(&["pgsql$"], "A.B")].concat();
        for length in 0..whole.len() {
            let _ = accounts(&whole[..length]);
        }
        assert!(accounts(b"secret").is_err());
        assert!(accounts(&[5, 2, 0, 0, 0, 9, 1]).is_err());
        assert!(accounts(&[5, 2, 0x80, 0, 0, 0]).is_err());
        assert!(accounts(&[5, 2]).unwrap().is_empty());
    }
}
