//! Who may come in: passwords of HTTP's basic authentication. Right ones are remembered by a digest, wrong ones are counted,
//! and what is not known yet waits for the worker's verdict. Never checks a password itself, so asking never blocks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::prelude::{BASE64_STANDARD, Engine};
use pillion_base::error::{Context, Result};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::limits;
use crate::web::config::Hash;
use crate::web::throttle::{Bucket, Rate, Throttle, owner};
use crate::web::worker::{Check, Digest, Task, Worker};
use pillion_base::wake::Wake;

/// A client of the server, for as long as its connection lives.
pub(crate) type ClientId = u64;

/// The salt and the hash of nobody's password: what names that are not in the file are checked against, so that the time
/// does not tell them from those that are.
const NOBODY: &str = "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is answered.
    Allowed,
    /// No credentials, or wrong ones.
    Unauthorized,
    /// Too many wrong ones came from there, or from everywhere.
    Throttled,
    /// Too many wait.
    Busy,
    /// A verdict follows.
    Wait,
}

/// A password that waits for its verdict, or is being checked.
struct Job {
    task: Task,
    user: Vec<u8>,
    is_user: bool,
    owner: IpAddr,
    /// Who asked; when all of them are gone, nobody needs to know.
    waiting: Vec<ClientId>,
}

/// A job whose task the worker has.
struct Running {
    digest: Digest,
    hash: String,
    user: Vec<u8>,
    is_user: bool,
    owner: IpAddr,
    waiting: Vec<ClientId>,
}

/// The memory and the queue.
pub(crate) struct Auth {
    /// Makes the digests useless to whoever reads them in a dump of the memory later.
    secret: Zeroizing<[u8; 32]>,
    right: Memory,
    wrong: Memory,
    by_address: Throttle,
    in_all: Bucket,
    queue: VecDeque<Job>,
    running: Option<Running>,
    worker: Option<Worker>,
    check: Check,
    wake: Arc<Wake>,
    n_checks: u64,
}

impl Auth {
    /// Nobody is known yet. The thread is started when the first password comes.
    ///
    /// `Errors:` when the system gives no random bytes.
    pub(crate) fn new(check: Check, wake: Arc<Wake>, now: Instant) -> Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        let flags = rustix::rand::GetRandomFlags::empty();
        rustix::rand::getrandom(secret.as_mut_slice(), flags)
            .map_err(std::io::Error::from)
            .context(|| "get random bytes")?;
        Ok(Auth {
            secret,
            right: Memory::new(limits::RIGHT_PASSWORDS_MAX),
            wrong: Memory::new(limits::WRONG_PASSWORDS_MAX),
            by_address: Throttle::new(WRONG_BY_ADDRESS, limits::WRONG_ADDRESSES_MAX),
            in_all: Bucket::new(now),
            queue: VecDeque::new(),
            running: None,
            worker: None,
            check,
            wake,
            n_checks: 0,
        })
    }

    /// Judges a request of `client` by its `Authorization` header. After [`Verdict::Wait`] the verdict comes out of
    /// [`Auth::verdicts`], unless the client is forgotten.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        client: ClientId,
        peer: IpAddr,
        authorization: Option<&[u8]>,
        users: &BTreeMap<String, Hash>,
    ) -> Verdict {
        let Some((user, password)) = authorization.and_then(credentials) else { return Verdict::Unauthorized };
        let known = find(users, &user);
        let is_user = known.is_some();
        let hash = known.map_or_else(|| nobody(users), |hash| hash.text.clone());
        let digest = self.digest(&user, &hash, &password);
        if self.right.has(&digest) {
            return Verdict::Allowed;
        }
        // A browser asks for several things at once: they wait for one check.
        let queued = self.queue.iter_mut().find(|job| job.task.digest == digest).map(|job| &mut job.waiting);
        let running = self.running.as_mut().filter(|job| job.digest == digest).map(|job| &mut job.waiting);
        if let Some(waiting) = queued.or(running) {
            waiting.push(client);
            return Verdict::Wait;
        }
        // Each password costs a token until it turns out to be right.
        if !self.by_address.take(now, peer) {
            return Verdict::Throttled;
        }
        if self.wrong.has(&digest) {
            return Verdict::Unauthorized;
        }
        let owner = owner(peer);
        let n_same = self.queue.iter().filter(|job| job.owner == owner).count();
        let is_full = self.queue.len() >= limits::PASSWORDS_WAITING_MAX || n_same >= limits::PASSWORDS_WAITING_SAME_MAX;
        if is_full || !self.in_all.take(now, WRONG_IN_ALL) {
            self.by_address.give_back(peer);
            return if is_full { Verdict::Busy } else { Verdict::Throttled };
        }
        let task = Task { digest, hash, password };
        self.queue.push_back(Job { task, user, is_user, owner, waiting: vec![client] });
        if self.pump() {
            return Verdict::Wait;
        }
        self.queue.retain(|job| job.task.digest != digest);
        Verdict::Busy
    }

    /// The verdicts that are known by now. `users` are those of this moment: one who was removed while he waited does not
    /// come in.
    pub(crate) fn verdicts(&mut self, users: &BTreeMap<String, Hash>) -> Vec<(ClientId, Verdict)> {
        let mut verdicts = Vec::new();
        while let Some((digest, is_right)) = self.worker.as_ref().and_then(Worker::result) {
            let Some(job) = self.running.take() else { continue };
            let is_still_his = find(users, &job.user).is_some_and(|hash| hash.text == job.hash);
            let verdict = if is_right && is_still_his { Verdict::Allowed } else { Verdict::Unauthorized };
            if verdict == Verdict::Allowed {
                self.right.keep(digest);
                self.by_address.give_back(job.owner);
                self.in_all.give_back(WRONG_IN_ALL);
            } else if !is_right || !job.is_user {
                // Not where the user was removed meanwhile: he may come back.
                self.wrong.keep(digest);
            }
            verdicts.extend(job.waiting.into_iter().map(|client| (client, verdict)));
            if !self.pump() {
                verdicts.extend(self.queue.drain(..).flat_map(|job| job.waiting).map(|client| (client, Verdict::Busy)));
            }
        }
        verdicts
    }

    /// The client is gone: a password that only it waits for need not be checked.
    pub(crate) fn forget(&mut self, client: ClientId) {
        for job in &mut self.queue {
            job.waiting.retain(|waiting| *waiting != client);
        }
        self.queue.retain(|job| !job.waiting.is_empty());
        if let Some(job) = &mut self.running {
            job.waiting.retain(|waiting| *waiting != client);
        }
    }

    /// Passwords that were given to the worker so far.
    pub(crate) fn n_checks(&self) -> u64 {
        self.n_checks
    }

    /// Gives the worker something to do, if it is idle. False when there is no worker to be had.
    fn pump(&mut self) -> bool {
        if self.running.is_some() {
            return true;
        }
        let Some(job) = self.queue.pop_front() else { return true };
        let worker = match self.worker.take() {
            Some(worker) => Ok(worker),
            None => Worker::start(Arc::clone(&self.check), Arc::clone(&self.wake)),
        };
        let worker = match worker {
            Ok(worker) => worker,
            Err(err) => {
                log::error!(err = err.to_string(); "passwords cannot be checked");
                self.queue.push_front(job);
                return false;
            }
        };
        let Job { task, user, is_user, owner, waiting } = job;
        self.running = Some(Running { digest: task.digest, hash: task.hash.clone(), user, is_user, owner, waiting });
        self.n_checks += 1;
        // The worker is idle, so it takes the task, unless it is gone; then whoever waits is told that it takes too long.
        let is_taken = worker.give(task);
        if is_taken {
            self.worker = Some(worker);
        } else {
            self.running = None;
        }
        is_taken
    }

    fn digest(&self, user: &[u8], hash: &str, password: &[u8]) -> Digest {
        let mut digest = Sha256::new();
        digest.update(self.secret.as_slice());
        // Lengths keep `a` `bc` and `ab` `c` apart.
        for part in [user, hash.as_bytes(), password] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

/// Wrong passwords of one address: a mistyping person, and a scraper with an old password, never notice.
const WRONG_BY_ADDRESS: Rate =
    Rate { burst: limits::WRONG_BY_ADDRESS_BURST, interval: limits::WRONG_BY_ADDRESS_INTERVAL };
/// Wrong passwords in all.
const WRONG_IN_ALL: Rate = Rate { burst: limits::WRONG_IN_ALL_BURST, interval: limits::WRONG_IN_ALL_INTERVAL };

/// The user and the password of an `Authorization` header, read as Go does.
fn credentials(header: &[u8]) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let (scheme, encoded) = header.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let plain = Zeroizing::new(BASE64_STANDARD.decode(encoded).ok()?);
    let colon = plain.iter().position(|byte| *byte == b':')?;
    let (user, password) = plain.split_at_checked(colon)?;
    Some((user.to_vec(), Zeroizing::new(password.get(1..)?.to_vec())))
}

fn find<'a>(users: &'a BTreeMap<String, Hash>, user: &[u8]) -> Option<&'a Hash> {
    users.get(std::str::from_utf8(user).ok()?)
}

/// A hash as dear as the dearest of the users'. Whatever a check against it says, the name is not in the file.
fn nobody(users: &BTreeMap<String, Hash>) -> String {
    let cost = users.values().map(|hash| hash.cost).max().unwrap_or(10);
    format!("$2y${cost:02}${NOBODY}")
}

/// Digests, as many as there is room for; those that were not asked for longest go first.
struct Memory {
    max: usize,
    clock: u64,
    last_used: HashMap<Digest, u64>,
}

impl Memory {
    fn new(max: usize) -> Self {
        Memory { max, clock: 0, last_used: HashMap::new() }
    }

    fn has(&mut self, digest: &Digest) -> bool {
        self.clock += 1;
        self.last_used.get_mut(digest).map(|used| *used = self.clock).is_some()
    }

    fn keep(&mut self, digest: Digest) {
        self.clock += 1;
        if self.last_used.len() >= self.max
            && let Some(oldest) = self.last_used.iter().min_by_key(|(_, used)| **used).map(|(digest, _)| *digest)
        {
            self.last_used.remove(&oldest);
        }
        self.last_used.insert(digest, self.clock);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crossbeam_channel::{Receiver, Sender, unbounded};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::web::config::WebConfig;

    const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";
    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn basic(plain: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(plain))
    }

    /// One whose worker takes `secret` for right, sees what it is asked, and waits for leave where there is a gate.
    struct Rig {
        auth: Auth,
        wake: Arc<Wake>,
        users: BTreeMap<String, Hash>,
        asked: Receiver<String>,
        gate: Option<Sender<()>>,
        now: Instant,
    }

    impl Rig {
        fn new(is_gated: bool) -> Rig {
            let wake = Arc::new(Wake::new().unwrap());
            let (sender, asked) = unbounded();
            let (gate, leave) = unbounded::<()>();
            let check: Check = Arc::new(move |hash, password| {
                assert_eq!(std::thread::current().name(), Some("http-auth"));
                sender.send(hash.to_owned()).unwrap();
                let _ = if is_gated { leave.recv().is_ok() } else { false };
                password == b"secret"
            });
            let now = Instant::now();
            let auth = Auth::new(check, Arc::clone(&wake), now).unwrap();
            let text = format!("basic_auth_users: {{alice: {HASH}, bob: '{}'}}", HASH.replace("$10", "$12"));
            let users = WebConfig::parse(&text, Path::new("")).unwrap().users;
            Rig { auth, wake, users, asked, gate: Some(gate), now }
        }

        fn ask(&mut self, client: ClientId, peer: IpAddr, plain: &str) -> Verdict {
            self.auth.ask(self.now, client, peer, Some(basic(plain).as_bytes()), &self.users)
        }

        fn verdicts(&mut self) -> Vec<(ClientId, Verdict)> {
            loop {
                let mut fds = [PollFd::from_borrowed_fd(self.wake.fd(), PollFlags::IN)];
                let n_ready = poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
                assert_eq!(n_ready, 1, "no verdict comes");
                self.wake.clear();
                let verdicts = self.auth.verdicts(&self.users);
                if !verdicts.is_empty() {
                    return verdicts;
                }
            }
        }

        /// Asks and waits.
        fn verdict(&mut self, peer: IpAddr, plain: &str) -> Verdict {
            match self.ask(1, peer, plain) {
                Verdict::Wait => self.verdicts()[0].1,
                verdict => verdict,
            }
        }
    }

    fn peer(n: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, n))
    }

    #[test]
    fn headers_are_read_as_go_does() {
        let read = |header: &str| {
            let (user, password) = credentials(header.as_bytes())?;
            Some(format!("{}|{}", String::from_utf8(user).unwrap(), String::from_utf8(password.to_vec()).unwrap()))
        };
        for (header, expected) in [
            (basic("a:b").as_str(), Some("a|b")),
            (&basic("a:b:c"), Some("a|b:c")),
            (&basic(":"), Some("|")),
            (&basic("a:"), Some("a|")),
            (&basic("a:b").replace("Basic", "bAsIc"), Some("a|b")),
            (&basic("ab"), None),
            (&basic(""), None),
            ("Basic YTpiYw==", Some("a|bc")),
            ("Basic YTpiYw", None),
            ("Basic *", None),
            ("Basic", None),
            ("Bearer YTpi", None),
            ("", None),
        ] {
            assert_eq!(read(header).as_deref(), expected, "{header}");
        }
        assert!(credentials(b"Basic \xff\xfe").is_none());
        assert!(credentials(basic("x").replace("eA==", "//86eA==").as_bytes()).is_some(), "names may be any bytes");
    }

    #[test]
    fn a_right_password_is_checked_once_and_then_known() {
        let mut rig = Rig::new(false);
        assert_eq!(rig.ask(7, FROM, "alice:secret"), Verdict::Wait);
        assert_eq!(rig.verdicts(), [(7, Verdict::Allowed)]);
        for _ in 0..100 {
            assert_eq!(rig.ask(8, FROM, "alice:secret"), Verdict::Allowed);
        }
        assert_eq!(rig.auth.n_checks(), 1);
        assert_eq!(rig.verdict(FROM, "bob:secret"), Verdict::Allowed);
        assert_eq!(rig.auth.n_checks(), 2);
        assert_eq!(rig.auth.ask(rig.now, 1, FROM, None, &rig.users), Verdict::Unauthorized);
        // A new hash is a new password.
        let hash = Hash { text: HASH.replace("X0h1gD", "X0h1gE"), cost: 10 };
        rig.users.insert("alice".into(), hash);
        assert_eq!(rig.ask(7, FROM, "alice:secret"), Verdict::Wait);
    }

    #[test]
    fn names_that_are_not_there_cost_as_much_and_never_come_in() {
        let mut rig = Rig::new(false);
        assert_eq!(rig.verdict(FROM, "mallory:secret"), Verdict::Unauthorized);
        let hash = rig.asked.recv().unwrap();
        assert!(hash.starts_with("$2y$12$"), "{hash}");
        assert!(!bcrypt::verify("", &hash.replace("$12", "$04")).unwrap(), "it must be a hash that can be checked");
        assert_eq!(rig.verdict(FROM, "mallory:secret"), Verdict::Unauthorized);
        assert_eq!(rig.auth.n_checks(), 1);
    }

    #[test]
    fn several_requests_wait_for_one_check() {
        let mut rig = Rig::new(true);
        for client in 1..=3 {
            assert_eq!(rig.ask(client, FROM, "alice:secret"), Verdict::Wait);
        }
        rig.auth.forget(2);
        rig.gate = None;
        assert_eq!(rig.verdicts(), [(1, Verdict::Allowed), (3, Verdict::Allowed)]);
        assert_eq!(rig.auth.n_checks(), 1);
    }

    #[test]
    fn who_is_removed_while_he_waits_does_not_come_in() {
        let mut rig = Rig::new(true);
        assert_eq!(rig.ask(1, FROM, "alice:secret"), Verdict::Wait);
        let alice = rig.users.remove("alice").unwrap();
        rig.gate = None;
        assert_eq!(rig.verdicts(), [(1, Verdict::Unauthorized)]);
        // It was a right password, so it is not remembered as a wrong one.
        rig.users.insert("alice".into(), alice);
        assert_eq!(rig.verdict(FROM, "alice:secret"), Verdict::Allowed);
    }

    #[test]
    fn wrong_passwords_are_limited_by_address_and_in_all() {
        let mut rig = Rig::new(false);
        assert_eq!(rig.verdict(FROM, "alice:secret"), Verdict::Allowed);
        for n in 0..limits::WRONG_BY_ADDRESS_BURST {
            assert_eq!(rig.verdict(FROM, &format!("alice:{n}")), Verdict::Unauthorized);
        }
        let n_checks = rig.auth.n_checks();
        assert_eq!(rig.verdict(FROM, "alice:other"), Verdict::Throttled);
        assert_eq!(rig.verdict(FROM, "alice:0"), Verdict::Throttled, "a known wrong one is no way around");
        assert_eq!(rig.verdict(FROM, "bob:secret"), Verdict::Throttled, "unknown is unknown");
        assert_eq!(rig.verdict(FROM, "alice:secret"), Verdict::Allowed, "a known right one never suffers");
        assert_eq!(rig.auth.n_checks(), n_checks);
        assert_eq!(rig.verdict(peer(1), "alice:0"), Verdict::Unauthorized);
        assert_eq!(rig.verdict(peer(1), "bob:secret"), Verdict::Allowed);
        rig.now += limits::WRONG_BY_ADDRESS_INTERVAL;
        assert_eq!(rig.verdict(FROM, "alice:other"), Verdict::Unauthorized);
        assert_eq!(rig.verdict(FROM, "alice:another"), Verdict::Throttled);

        rig.now += Duration::from_secs(3600);
        let mut n_refused = 0;
        for n in 0..=255 {
            n_refused += u32::from(rig.verdict(peer(n), &format!("alice:{n} again")) == Verdict::Unauthorized);
        }
        assert_eq!(n_refused, limits::WRONG_IN_ALL_BURST);
        assert_eq!(rig.verdict(FROM, "bob:secret"), Verdict::Allowed);
        // What the lot of them used up leaves their own tokens alone.
        rig.now += limits::WRONG_IN_ALL_INTERVAL;
        assert_eq!(rig.verdict(peer(255), "alice:x"), Verdict::Unauthorized);
    }

    #[test]
    fn the_queue_is_bounded_and_has_room_for_others() {
        let mut rig = Rig::new(true);
        let mut client = 0;
        let mut ask = |rig: &mut Rig, peer: IpAddr| {
            client += 1;
            rig.ask(client, peer, &format!("alice:{client}"))
        };
        // The first is being checked.
        for _ in 0..=limits::PASSWORDS_WAITING_SAME_MAX {
            assert_eq!(ask(&mut rig, FROM), Verdict::Wait);
        }
        assert_eq!(ask(&mut rig, FROM), Verdict::Busy);
        let n_others = limits::PASSWORDS_WAITING_MAX - limits::PASSWORDS_WAITING_SAME_MAX;
        for n in 0..u8::try_from(n_others).unwrap() {
            assert_eq!(ask(&mut rig, peer(n)), Verdict::Wait);
        }
        assert_eq!(ask(&mut rig, peer(200)), Verdict::Busy);
        // Who goes away makes room.
        rig.auth.forget(3);
        assert_eq!(ask(&mut rig, peer(200)), Verdict::Wait);
        rig.gate = None;
        let mut n_verdicts = 0;
        while n_verdicts < limits::PASSWORDS_WAITING_MAX + 1 {
            let verdicts = rig.verdicts();
            assert!(verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Unauthorized), "{verdicts:?}");
            n_verdicts += verdicts.len();
        }
    }

    #[test]
    fn memories_are_bounded_and_keep_what_is_used() {
        let mut memory = Memory::new(3);
        for n in 0..100 {
            memory.keep([n; 32]);
            memory.has(&[0; 32]);
            assert!(memory.last_used.len() <= 3);
        }
        assert!(memory.has(&[0; 32]) && memory.has(&[99; 32]) && !memory.has(&[50; 32]));
    }
}
