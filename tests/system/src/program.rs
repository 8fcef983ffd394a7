//! Programs that a test puts in place and then runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::command::Task;

const LIMIT: Duration = Duration::from_secs(60);

/// Writes a program, such as a script that stands for one of Debian's, with the directories above it.
///
/// A process of its own writes it. Were it written here, every process that another thread starts meanwhile would hold the
/// file open for writing until its own `exec`, and no file that is open for writing can be run ("Text file busy").
pub fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<()> {
    install(Path::new("/dev/stdin"), path.as_ref(), text.as_ref())
}

/// [`write()`] with the content of another file.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    install(from.as_ref(), to.as_ref(), b"")
}

fn install(from: &Path, to: &Path, input: &[u8]) -> Result<()> {
    let mut command = Command::new("install");
    command.args(["-D", "--no-target-directory", "--mode=755", "--"]).arg(from).arg(to);
    Task::start(command, &format!("install {}", to.display()), input)?.wait(LIMIT)?.ok().map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_program_is_written_with_its_directories_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("usr/bin/ip"), folder.path().join("other"));
        for text in ["#!/bin/sh\nexit 3\n", "#!/bin/sh\n"] {
            write(&path, text).unwrap();
            copy(&path, &other).unwrap();
            for path in [&path, &other] {
                assert_eq!(fs::read_to_string(path).unwrap(), text);
                assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
            }
        }
        assert!(write(folder.path(), "").is_err() && copy(folder.path().join("none"), &other).is_err());
    }

    #[test]
    fn a_program_runs_as_soon_as_it_is_written_while_other_threads_start_processes() {
        let folder = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        let work = |worker: usize| {
            for round in 0..150 {
                let path = folder.path().join(format!("{worker}-{round}"));
                if round % 2 == 0 {
                    write(&path, "#!/bin/sh\n").unwrap();
                } else {
                    copy(folder.path().join(format!("{worker}-{}", round - 1)), &path).unwrap();
                }
                let ran = Command::new(&path).status();
                assert!(ran.as_ref().is_ok_and(std::process::ExitStatus::success), "round {round}: {ran:?}");
            }
        };
        let start_processes = || {
            while !done.load(Ordering::Relaxed) {
                assert!(Command::new("true").status().unwrap().success());
            }
        };
        thread::scope(|scope| {
            let others: Vec<_> = (0..4).map(|_| scope.spawn(start_processes)).collect();
            let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || work(worker))).collect();
            let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            for other in others {
                other.join().unwrap();
            }
            assert!(ended.iter().all(Result::is_ok), "a program could not be run, see above");
        });
    }
}
