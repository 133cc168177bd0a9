//! Runs the parts of the check side by side, each within its time, and passes on what they find in the order of the parts.
//! A part that hangs, fails or panics costs only itself: it is named, and left behind.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::findings::{Finding, Level};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;

/// Time in which a part that is late may still tidy up.
const TIDY_TIME: Duration = Duration::from_secs(2);
/// Time between two looks at the terminal.
const TICK: Duration = Duration::from_millis(100);

/// What a part does.
pub(crate) type Run = Box<dyn FnOnce(&Report, &Stop) + Send>;

/// One part of the check.
pub(crate) struct Part {
    /// Its name in the findings.
    pub(crate) what: &'static str,
    /// What it does. Its stop begins when its time is over.
    pub(crate) run: Run,
    /// What else is to be done then, such as cutting a connection.
    pub(crate) cut: Box<dyn Fn()>,
}

enum Message {
    Step(String),
    /// It waits for another part, whose fault it is if that takes too long.
    Waits,
    Found(Finding),
    Done {
        panicked: bool,
    },
}

/// Where a part says what it finds.
pub(crate) struct Report {
    part: usize,
    what: &'static str,
    messages: Sender<(usize, Message)>,
    stop: Stop,
}

impl Report {
    /// What is done now, for who waits and for the error of a part that takes too long.
    pub(crate) fn step(&self, text: impl Into<String>) {
        self.send(Message::Step(text.into()));
    }

    /// Another part is waited for.
    pub(crate) fn waits(&self) {
        self.send(Message::Waits);
    }

    /// As it should be.
    pub(crate) fn ok(&self, text: impl Into<String>) {
        self.found(Level::Ok, text, "");
    }

    /// Good to know.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.found(Level::Note, text, "");
    }

    /// It works, but …
    pub(crate) fn warning(&self, text: impl Into<String>, change: impl Into<String>) {
        self.found(Level::Warning, text, change);
    }

    /// It does not work.
    pub(crate) fn error(&self, text: impl Into<String>, change: impl Into<String>) {
        self.found(Level::Error, text, change);
    }

    /// A step that failed. What was cut because the time is over is said by others.
    pub(crate) fn failed(&self, level: Level, err: &Error, change: impl Into<String>) {
        if err.kind() != Kind::Stopped && !self.stop.is_stopped() {
            self.found(level, err.to_string(), change);
        }
    }

    fn found(&self, level: Level, text: impl Into<String>, change: impl Into<String>) {
        let (text, change) = (text.into(), change.into());
        self.send(Message::Found(Finding { level, what: self.what, text, change }));
    }

    fn send(&self, message: Message) {
        // Nobody listens to a part that was left behind.
        let _ = self.messages.send((self.part, message));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.send(Message::Done { panicked: std::thread::panicking() });
    }
}

/// What the loop knows of a part.
struct Running {
    what: &'static str,
    step: String,
    found: Vec<Finding>,
    is_done: bool,
    waits: bool,
    stopper: Stopper,
    cut: Box<dyn Fn()>,
}

/// Runs all parts and passes each finding to `each`, those of the first part first. `waiting` is told every tenth of a second
/// what is still being done. `Blocks:` a little longer than `timeout`.
pub(crate) fn run(
    parts: Vec<Part>,
    timeout: Duration,
    each: &mut dyn FnMut(&Finding) -> Result<()>,
    waiting: &dyn Fn(&str),
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let (sender, messages) = unbounded();
    let mut running = Vec::new();
    for (idx, Part { what, run, cut }) in parts.into_iter().enumerate() {
        let (stopper, stop) = stop_pair()?;
        let report = Report { part: idx, what, messages: sender.clone(), stop: stop.clone() };
        let (step, found) = (String::new(), Vec::new());
        running.push(Running { what, step, found, is_done: false, waits: false, stopper, cut });
        // Whoever is left behind ends with the process.
        spawn_thread("check", None, move || run(&report, &stop))?;
    }
    drop(sender);
    collect(&messages, &mut running, deadline, each, waiting)?;
    for part in running.iter_mut().filter(|part| !part.is_done) {
        let doing = if part.step.is_empty() { String::new() } else { format!(" while {}", part.step) };
        let text = format!("no answer within {}s{doing}", timeout.as_secs_f64());
        let change = "find out why it takes so long, or give it more time with --timeout".to_owned();
        let finding = Finding { level: Level::Error, what: part.what, text, change };
        part.found.extend(Some(finding).filter(|_| !part.waits));
        part.stopper.stop();
        (part.cut)();
    }
    collect(&messages, &mut running, Instant::now() + TIDY_TIME, each, waiting)?;
    running.iter_mut().flat_map(|part| std::mem::take(&mut part.found)).try_for_each(|finding| each(&finding))
}

/// Takes messages until all parts are done or the deadline comes.
fn collect(
    messages: &Receiver<(usize, Message)>,
    running: &mut [Running],
    deadline: Instant,
    each: &mut dyn FnMut(&Finding) -> Result<()>,
    waiting: &dyn Fn(&str),
) -> Result<()> {
    while running.iter().any(|part| !part.is_done) && Instant::now() < deadline {
        match messages.recv_deadline(deadline.min(Instant::now() + TICK)) {
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
            Ok((idx, message)) => {
                let Some(part) = running.get_mut(idx) else { continue };
                match message {
                    Message::Step(text) => (part.step, part.waits) = (text, false),
                    Message::Waits => (part.step, part.waits) = (String::new(), true),
                    Message::Found(finding) => part.found.push(finding),
                    Message::Done { panicked } => {
                        part.is_done = true;
                        let text = "this part of the check has failed by a fault of its own".to_owned();
                        let change = "please report it, with what stands above".to_owned();
                        let finding = Finding { level: Level::Error, what: part.what, text, change };
                        part.found.extend(panicked.then_some(finding));
                    }
                }
            }
        }
        // Those of a part wait until all parts before it are done.
        let n_open = running.iter().position(|part| !part.is_done).map_or(running.len(), |idx| idx + 1);
        for part in running.iter_mut().take(n_open) {
            std::mem::take(&mut part.found).iter().try_for_each(&mut *each)?;
        }
        let open = running.iter().filter(|part| !part.is_done && !part.step.is_empty());
        let steps: Vec<&str> = open.map(|part| part.step.as_str()).collect();
        waiting(&steps.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    fn part(what: &'static str, run: impl FnOnce(&Report, &Stop) + Send + 'static) -> Part {
        Part { what, run: Box::new(run), cut: Box::new(|| {}) }
    }

    fn texts(parts: Vec<Part>, timeout: Duration) -> Vec<String> {
        let mut found = Vec::new();
        let mut each = |finding: &Finding| {
            found.push(format!("{} {}", finding.what, finding.text));
            Ok(())
        };
        run(parts, timeout, &mut each, &|_| {}).unwrap();
        found
    }

    #[test]
    fn findings_come_in_the_order_of_the_parts() {
        let (second_is_done, wait) = bounded::<()>(0);
        let parts = vec![
            part("first", move |report, _| {
                report.ok("1");
                let _ = wait.recv();
                report.ok("2");
            }),
            part("second", move |report, _| {
                report.ok("3");
                drop(second_is_done);
            }),
        ];
        assert_eq!(texts(parts, Duration::from_secs(60)), ["first 1", "first 2", "second 3"]);
    }

    #[test]
    fn a_part_that_hangs_or_panics_costs_only_itself() {
        let (_keep, never) = bounded::<()>(0);
        let parts = vec![
            part("hangs", move |report, _| {
                report.ok("1");
                report.step("waiting for Godot");
                let _ = never.recv();
            }),
            part("stops", |report, stop| {
                stop.wait_forever();
                report.failed(Level::Error, &Error::new(Kind::Stopped, "stopping"), "");
                report.note("tidied up");
            }),
            part("panics", |_, _| std::panic::resume_unwind(Box::new("on purpose"))),
            part("waits", |report, stop| {
                report.waits();
                stop.wait_forever();
            }),
            part("works", |report, _| report.ok("2")),
        ];
        let expected = [
            "hangs 1",
            "hangs no answer within 0.05s while waiting for Godot",
            "stops no answer within 0.05s",
            "stops tidied up",
            "panics this part of the check has failed by a fault of its own",
            "works 2",
        ];
        assert_eq!(texts(parts, Duration::from_millis(50)), expected);
    }
}
