//! Claims: no stage is computed twice at the same time, on however many machines that share a store.
//!
//! A claim is a file in the stage's folder with a heartbeat. Whoever finds a claim whose heart does not beat any more takes
//! the stage over: at once where a file lock tells that the owner is gone (the same machine, or the same cluster job
//! begun again), else after a while without a beat, by the finder's own clock. An owner that could not beat for as long
//! itself, because it was asleep or its disk was away, stops.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use sysinfo::System;
use upcycle_files::{FileError, Lock, LockError};

use crate::{environment::host_name, error::LabError};

const LOCK: &str = "lock";
const CLAIM: &str = "claim.json";

/// What a claim's file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimFile {
    /// Machine of the owner.
    pub host: String,
    /// What tells machines of one name apart, and a machine from itself before it was started again; empty if nobody knows.
    #[serde(default)]
    boot: String,
    /// Its process.
    pub pid: u32,
    /// Its cluster job, if it is one, and how often that was begun again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<(String, u32)>,
    /// Tells two claims of one process apart.
    token: String,
    /// Counts heartbeats.
    beat: u64,
    /// Optimizer steps done, since the model was new.
    pub step: u64,
}

/// How often hearts beat, and when they are given up.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Time between heartbeats.
    pub beat: Duration,
    /// Time without a heartbeat after which a claim of another machine is taken over.
    pub stale: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(5),
            stale: Duration::from_secs(60),
        }
    }
}

/// Claims of other machines, and since when they have not changed.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<BTreeMap<PathBuf, (ClaimFile, Instant)>>);

impl Observed {
    /// Time for which the claim in a folder has not changed, as far as this process has seen.
    fn unchanged(&self, dir: &Path, claim: &ClaimFile) -> Duration {
        let mut observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match observed.get(dir) {
            Some((last, since)) if last == claim => since.elapsed(),
            _ => {
                observed.insert(dir.to_owned(), (claim.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }
}

/// A stage that this process computes; given back when dropped.
pub(crate) struct Claim {
    dir: PathBuf,
    token: String,
    step: Arc<AtomicU64>,
    lost: Arc<AtomicBool>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    heart: Option<JoinHandle<()>>,
    _lock: Option<Lock>,
}

impl Claim {
    /// Claims the stage in a folder; none if somebody else computes it.
    pub(crate) fn take(
        dir: &Path,
        patience: Patience,
        observed: &Observed,
    ) -> Result<Option<Self>, LabError> {
        let io = FileError::of("claim the stage in", dir);
        let (lock, locked) = match Lock::take(&dir.join(LOCK)) {
            Ok(lock) => (Some(lock), true),
            Err(LockError::Busy) => return Ok(None),
            // Heartbeats alone have to do.
            Err(LockError::Unsupported) => (None, false),
            Err(LockError::File(error)) => return Err(error.into()),
        };
        let own = Owner::this();
        if let Some(other) = ClaimFile::read(dir) {
            let gone = own.is_where(&other) && locked || own.was(&other);
            if !gone && observed.unchanged(dir, &other) < patience.stale {
                return Ok(None);
            }
            if !other
                .remove(dir)
                .map_err(FileError::of("claim the stage in", dir))?
            {
                return Ok(None);
            }
        }
        let claim = ClaimFile {
            host: own.host,
            boot: own.boot,
            pid: process::id(),
            job: own.job,
            token: unique_token(),
            beat: 0,
            step: 0,
        };
        if !claim.create(dir).map_err(io)? {
            return Ok(None);
        }
        Ok(Some(Self::beating(dir, claim, patience, lock)))
    }

    fn beating(dir: &Path, mut claim: ClaimFile, patience: Patience, lock: Option<Lock>) -> Self {
        let step = Arc::new(AtomicU64::new(0));
        let lost = Arc::new(AtomicBool::new(false));
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let token = claim.token.clone();
        let heart = {
            let (dir, step) = (dir.to_owned(), Arc::clone(&step));
            let (lost, stop) = (Arc::clone(&lost), Arc::clone(&stop));
            thread::spawn(move || {
                let (stopped, changed) = &*stop;
                let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                let mut last = Instant::now();
                loop {
                    let waited =
                        changed.wait_timeout_while(guard, patience.beat, |stopped| !*stopped);
                    guard = waited.unwrap_or_else(PoisonError::into_inner).0;
                    if *guard {
                        return;
                    }
                    let taken = ClaimFile::read(&dir).is_some_and(|now| now.token != claim.token);
                    if taken || last.elapsed() >= patience.stale {
                        lost.store(true, Ordering::Relaxed);
                        return;
                    }
                    claim.beat += 1;
                    claim.step = step.load(Ordering::Relaxed);
                    // A beat that cannot be written is missed; the next one may be.
                    if upcycle_files::write(&dir.join(CLAIM), claim.json().as_bytes()).is_ok() {
                        last = Instant::now();
                    }
                }
            })
        };
        Self {
            dir: dir.to_owned(),
            token,
            step,
            lost,
            stop,
            heart: Some(heart),
            _lock: lock,
        }
    }

    /// Tells how far the stage is, with the next heartbeat.
    pub(crate) fn at_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// Becomes true when the stage is not this process's any more.
    pub(crate) fn lost(&self) -> &AtomicBool {
        &self.lost
    }

    /// Whether another process has taken the stage over.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
            || ClaimFile::read(&self.dir).is_some_and(|claim| claim.token != self.token)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(heart) = self.heart.take() {
            // The thread only waits and writes; were it to panic, the claim would grow old.
            let _ = heart.join();
        }
        if !self.is_lost() {
            // A claim that stays behind is one without a heartbeat.
            let _ = fs::remove_file(self.dir.join(CLAIM));
        }
    }
}

/// Who this process is.
struct Owner {
    host: String,
    boot: String,
    job: Option<(String, u32)>,
}

impl Owner {
    fn this() -> Self {
        Self {
            host: host_name(),
            boot: boot_id(),
            job: std::env::var("SLURM_JOB_ID").ok().map(|job| {
                let count = std::env::var("SLURM_RESTART_COUNT").ok();
                (job, count.and_then(|count| count.parse().ok()).unwrap_or(0))
            }),
        }
    }

    fn is_where(&self, claim: &ClaimFile) -> bool {
        !self.host.is_empty() && self.host == claim.host && self.boot == claim.boot
    }

    /// A cluster begins a job again only after its end.
    fn was(&self, claim: &ClaimFile) -> bool {
        match (&self.job, &claim.job) {
            (Some((own, now)), Some((other, then))) => own == other && now > then,
            _ => false,
        }
    }
}

/// Letters that no other thread, process or machine has in a token of its own.
fn unique_token() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = since.map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{nanoseconds:x}-{:x}-{count:x}", process::id())
}

/// What this run of this machine's system is called: random letters on Linux, else when it began.
fn boot_id() -> String {
    let linux = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    match linux {
        Ok(id) => id.trim().to_owned(),
        Err(_) => System::boot_time().to_string(),
    }
}

impl ClaimFile {
    /// The claim in a stage's folder; none if there is none. One that a crash cut off is that of nobody.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        Self::read_file(&dir.join(CLAIM))
    }

    fn read_file(path: &Path) -> Option<Self> {
        let text = fs::read(path).ok()?;
        let damaged = || Self {
            host: String::new(),
            boot: String::new(),
            pid: 0,
            job: None,
            token: format!("damaged {}", text.len()),
            beat: 0,
            step: 0,
        };
        Some(serde_json::from_slice(&text).unwrap_or_else(|_| damaged()))
    }

    /// Time since the last heartbeat, by the file's time and this machine's clock; none if that cannot be told.
    pub(crate) fn age(dir: &Path) -> Option<Duration> {
        let written = fs::metadata(dir.join(CLAIM)).ok()?.modified().ok()?;
        Some(written.elapsed().unwrap_or_default())
    }

    /// Whether the owner of the claim in a folder seems to live, and the time since its last heartbeat: by its lock on the same
    /// machine, else by its heartbeat.
    pub(crate) fn alive(dir: &Path, stale: Duration) -> Option<(Self, Duration)> {
        let claim = Self::read(dir)?;
        let age = Self::age(dir)?;
        let here = Owner::this().is_where(&claim);
        let dead = here && Lock::existing(&dir.join(LOCK)).is_ok();
        (!dead && age < stale).then_some((claim, age))
    }

    fn json(&self) -> String {
        // Plain fields always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Writes the claim where there is none; false if there is one.
    fn create(&self, dir: &Path) -> io::Result<bool> {
        // Whoever links first wins, and nobody sees half a file.
        let beside = dir.join(format!("{CLAIM}.{}", self.token));
        let mut file = File::create(&beside)?;
        file.write_all(self.json().as_bytes())?;
        file.sync_all()?;
        let linked = match fs::hard_link(&beside, dir.join(CLAIM)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // A file system without links.
            Err(_) => match OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(dir.join(CLAIM))
            {
                Ok(mut file) => file.write_all(self.json().as_bytes()).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            },
        };
        let _ = fs::remove_file(beside);
        linked
    }

    /// Removes this claim of an owner that is gone; false if it has changed since it was read.
    fn remove(&self, dir: &Path) -> io::Result<bool> {
        let aside = dir.join(format!("{CLAIM}.{}", unique_token()));
        match fs::rename(dir.join(CLAIM), &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        let same = Self::read_file(&aside).is_some_and(|claim| claim == *self);
        if same {
            fs::remove_file(aside)?;
        } else {
            // Somebody else was quicker, or the owner awoke.
            fs::rename(aside, dir.join(CLAIM))?;
        }
        Ok(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Patience = Patience {
        beat: Duration::from_millis(10),
        stale: Duration::from_millis(200),
    };

    fn foreign(beat: u64) -> ClaimFile {
        ClaimFile {
            host: "another-machine".into(),
            boot: "its boot".into(),
            pid: 1,
            job: None,
            token: "theirs".into(),
            beat,
            step: 7,
        }
    }

    fn take(dir: &Path, observed: &Observed) -> Option<Claim> {
        Claim::take(dir, QUICK, observed).unwrap()
    }

    #[test]
    fn a_stage_has_one_owner_until_it_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let observed = Observed::default();
        let claim = take(dir.path(), &observed).unwrap();
        claim.at_step(42);
        assert!(take(dir.path(), &observed).is_none());
        assert!(ClaimFile::alive(dir.path(), QUICK.stale).is_some());
        let told = || ClaimFile::read(dir.path()).is_some_and(|claim| claim.step == 42);
        let begun = Instant::now();
        while !told() && begun.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(told() && !claim.is_lost());
        drop(claim);
        assert!(ClaimFile::read(dir.path()).is_none());
        assert!(take(dir.path(), &observed).is_some());
    }

    #[test]
    fn the_dead_of_this_machine_are_replaced_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut dead = foreign(3);
        (dead.host, dead.boot) = (Owner::this().host, boot_id());
        assert!(dead.create(dir.path()).unwrap());
        File::create(dir.path().join(LOCK)).unwrap();
        assert!(ClaimFile::alive(dir.path(), QUICK.stale).is_none());
        assert!(take(dir.path(), &Observed::default()).is_some());
    }

    /// Two machines of one name share a folder whose file system has no locks between them.
    #[test]
    fn a_machine_of_the_same_name_is_another_machine() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = foreign(3);
        other.host = Owner::this().host;
        assert!(other.create(dir.path()).unwrap());
        assert!(take(dir.path(), &Observed::default()).is_none());
        assert!(ClaimFile::alive(dir.path(), QUICK.stale).is_some());
    }

    #[test]
    fn another_machine_is_given_up_when_its_heart_stops() {
        let dir = tempfile::tempdir().unwrap();
        let observed = Observed::default();
        assert!(foreign(0).create(dir.path()).unwrap());
        assert!(take(dir.path(), &observed).is_none());
        thread::sleep(QUICK.stale);
        // It did beat meanwhile.
        fs::write(dir.path().join(CLAIM), foreign(1).json()).unwrap();
        assert!(take(dir.path(), &observed).is_none());
        thread::sleep(QUICK.stale);
        let claim = take(dir.path(), &observed).unwrap();
        // The owner only slept: it sees that the stage is not its own any more.
        assert_ne!(ClaimFile::read(dir.path()).unwrap().token, "theirs");
        fs::write(dir.path().join(CLAIM), foreign(2).json()).unwrap();
        assert!(claim.is_lost());
        drop(claim);
        assert_eq!(ClaimFile::read(dir.path()), Some(foreign(2)));
    }

    #[test]
    fn a_claim_that_a_crash_cut_off_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let observed = Observed::default();
        fs::write(dir.path().join(CLAIM), "").unwrap();
        assert!(take(dir.path(), &observed).is_none());
        thread::sleep(QUICK.stale);
        assert!(take(dir.path(), &observed).is_some());
    }

    #[test]
    fn a_job_that_began_again_replaces_itself_and_no_other_task() {
        let owner = |restarts| Owner {
            host: String::new(),
            boot: String::new(),
            job: Some(("17".into(), restarts)),
        };
        let mut claim = foreign(0);
        claim.job = Some(("17".into(), 1));
        assert!(owner(2).was(&claim) && !owner(1).was(&claim));
        claim.job = None;
        assert!(!owner(2).was(&claim));
    }

    #[test]
    fn of_many_that_find_a_dead_claim_one_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(foreign(0).create(path).unwrap());
        let removed = thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| foreign(0).remove(path).unwrap()))
                .collect();
            let removed = workers.into_iter().map(|worker| worker.join().unwrap());
            removed.filter(|removed| *removed).count()
        });
        assert_eq!(removed, 1);
    }
}
