//! What `make check` ends with: `tests/part` runs its parts, `tests/summary` says what came of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The first program starts itself again, as tests in namespaces do; the second says nothing more, because it was killed.
const TESTS: &str = "   Compiling x v0.1.0
     Running unittests src/lib.rs (target/debug/deps/one-0123)
test inner ...
running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s
test outer ... FAILED
failures:

---- mine::outer stdout ----
    lines
    that are no names

failures:
    mine::outer
    mine::two

test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

     Running tests/other.rs (target/debug/deps/other-0123)
running 4 tests
error: test failed, to rerun pass `-p x --test other`
     Running tests/well.rs (target/debug/deps/well-0123)
test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

struct Results(tempfile::TempDir);

impl Results {
    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(program);
        Command::new(path).args(arguments).env("CHECK_RESULTS", self.0.path()).output().unwrap()
    }

    /// A part that says this and ends so.
    fn part(&self, name: &str, says: &str, status: i32) {
        let ended = self.run("part", &[name, "sh", "-c", &format!("printf '%s' \"$1\"; exit {status}"), "sh", says]);
        assert_eq!((ended.status.code(), ended.stdout), (Some(status), says.as_bytes().to_vec()), "{name}");
    }

    /// What is said of the parts, and the exit status.
    fn summary(&self, parts: &[&str]) -> (String, Option<i32>) {
        let said = self.run("summary", parts);
        assert!(said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
        let text = String::from_utf8(said.stdout).unwrap();
        (text.replace(&self.0.path().display().to_string(), "RESULTS"), said.status.code())
    }
}

#[test]
fn the_summary_names_all_that_failed_and_counts_all() {
    let results = Results(tempfile::tempdir().unwrap());
    results.part("format", "", 0);
    results.part("units", TESTS, 101);
    results.part(
        "findings",
        "ok      F01 (0.1 s)\nFAILED  F02-x (0.1 s), exit status 1:\n    why\n20 passed, 1 failed\n",
        1,
    );
    results.part("deb", "error: no\n", 2);
    results.part(
        "host",
        "test a ... ok\nError: it\n\nCaused by:\n    0: this\n\nStack backtrace:\n   0: that\ntest b ... FAILED\n",
        1,
    );
    let (said, status) = results.summary(&["format", "units", "findings", "deb", "host", "system"]);
    assert_eq!(
        said,
        "format: passed
units: FAILED, exit status 101, see RESULTS/units.log
    Running tests/other.rs (target/debug/deps/other-0123) did not come to its end
    mine::outer
    mine::two
findings: FAILED, exit status 1, see RESULTS/findings.log
    F02-x
deb: FAILED, exit status 2, see RESULTS/deb.log
      error: no
host: FAILED, exit status 1, see RESULTS/host.log
      Error: it
      Caused by:
          0: this
system: not run
29 passed, 7 failed
"
    );
    assert_eq!(status, Some(1));
}

#[test]
fn where_nothing_failed_the_summary_succeeds() {
    let results = Results(tempfile::tempdir().unwrap());
    let good = TESTS.split("     Running").last().unwrap();
    results.part("format", "", 0);
    results.part("units", &format!("     Running{good}     Running{good}"), 0);
    assert_eq!(
        results.summary(&["format", "units"]),
        ("format: passed\nunits: passed\n11 passed, 0 failed\n".to_owned(), Some(0))
    );
    // A part that is run again is counted by its last run alone, also where that is killed.
    results.part("units", "", 7);
    assert_eq!(results.summary(&["units"]).0.lines().last(), Some("0 passed, 1 failed"));
}
