//! Several suites side by side, each a process of its own.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A suite that is to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// As `cargo xtask test` calls it.
    pub name: String,
    /// Such suites share a Wine, and so run one after the other.
    pub uses_wine: bool,
}

/// How a suite has ended.
struct Ended {
    name: String,
    well: bool,
    duration: Duration,
    /// Its last lines: what failed, and the counts.
    closing: Vec<String>,
}

/// A step that prints nothing for that long hangs.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Runs the suites, at most `width` at a time, the first ones first, and prints what they print, with their names.
/// Returns whether all passed.
pub fn run(jobs: Vec<Job>, width: usize, command: impl Fn(&Job) -> Command + Sync) -> Result<bool> {
    let ended = Mutex::new(Vec::new());
    let waiting = Mutex::new((VecDeque::from(jobs), false));
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(|| {
                while let Some(job) = next(&waiting, &changed) {
                    let start = Instant::now();
                    let (well, closing) = follow(&job.name, &mut command(&job), SILENCE)
                        .unwrap_or_else(|error| (false, vec![format!("FAILED {}: {error:#}", job.name)]));
                    let name = job.name.clone();
                    lock(&ended).push(Ended { name, well, duration: start.elapsed(), closing });
                    if job.uses_wine {
                        lock(&waiting).1 = false;
                    }
                    changed.notify_all();
                }
            });
        }
    });
    let ended = ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!();
    for Ended { closing, .. } in &ended {
        closing.iter().for_each(|line| println!("{line}"));
    }
    println!("\n| suite | minutes |\n| --- | --- |");
    for Ended { name, duration, .. } in &ended {
        println!("| `{name}` | {:.1} |", duration.as_secs_f64() / 60.0);
    }
    Ok(ended.iter().all(|ended| ended.well))
}

/// Takes the first suite that may run now; waits if there is none yet.
fn next(waiting: &Mutex<(VecDeque<Job>, bool)>, changed: &Condvar) -> Option<Job> {
    let mut state = lock(waiting);
    loop {
        let (jobs, wine_runs) = &mut *state;
        if let Some(index) = jobs.iter().position(|job| !(job.uses_wine && *wine_runs)) {
            let job = jobs.remove(index)?;
            *wine_runs |= job.uses_wine;
            return Some(job);
        }
        if jobs.is_empty() {
            return None;
        }
        state = changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a command whose lines are printed as they come. Returns whether it succeeded, and its closing lines.
fn follow(name: &str, command: &mut Command, silence: Duration) -> Result<(bool, Vec<String>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let (sender, lines) = mpsc::channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut closing = Vec::new();
    loop {
        match lines.recv_timeout(silence) {
            Ok(line) => {
                writeln!(std::io::stdout(), "{name:>8}  {line}")?;
                if line.starts_with("FAILED ") || line.starts_with(&format!("{name}: ")) {
                    closing.push(line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                end(child.id());
                child.wait()?;
                bail!("nothing was printed for {} s: it hangs", silence.as_secs());
            }
        }
    }
    Ok((child.wait()?.success(), closing))
}

/// Ends a process and all that it has started. (They are no group of their own, so that Ctrl-C reaches them.)
fn end(process: u32) {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect::<String>();
    #[cfg(target_os = "linux")]
    // SAFETY: sends a signal; no memory is involved.
    unsafe {
        libc::kill(process as i32, libc::SIGKILL);
    }
    children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(end);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_fails_is_kept_and_what_hangs_is_ended() {
        let minute = Duration::from_secs(60);
        let ended = follow("a", &mut shell("echo x; echo FAILED b; echo 'a: 0 passed' >&2; exit 1"), minute).unwrap();
        assert!(!ended.0 && ended.1.len() == 2 && ended.1.contains(&"FAILED b".to_owned()), "{ended:?}");
        assert_eq!(follow("a", &mut shell("true"), minute).unwrap(), (true, vec![]));
        assert!(follow("a", &mut Command::new("/no/such/program"), minute).is_err());
        let file = std::env::temp_dir().join(format!("calltable-hangs-{}", std::process::id()));
        let script = format!("sh -c 'sleep 50; true' & echo $! >{}; wait", file.display());
        let error = follow("a", &mut shell(&script), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("hangs"), "{error}");
        let started = fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", started.trim());
        // It is gone, or nobody has asked yet how it ended.
        let is_running = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let asked = Instant::now();
        while is_running() && asked.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!is_running(), "what it has started still runs");
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn all_run_and_one_wine_at_a_time() {
        let jobs = |names: &[&str]| -> Vec<Job> {
            names.iter().map(|name| Job { name: (*name).into(), uses_wine: name.starts_with('w') }).collect()
        };
        let count = AtomicUsize::new(0);
        // Two with Wine would find each other's folder.
        let folder = std::env::temp_dir().join(format!("calltable-schedule-{}", std::process::id()));
        let script = format!("mkdir {0} && sleep 0.1 && rmdir {0}", folder.display());
        let command = |job: &Job| {
            count.fetch_add(1, Ordering::Relaxed);
            shell(if job.uses_wine { &script } else { "sleep 0.05" })
        };
        assert!(run(jobs(&["w1", "a", "w2", "b", "w3"]), 3, command).unwrap());
        assert_eq!(count.load(Ordering::Relaxed), 5);
        assert!(!run(jobs(&["a", "b"]), 2, |job| shell(if job.name == "b" { "exit 1" } else { "" })).unwrap());
    }
}
