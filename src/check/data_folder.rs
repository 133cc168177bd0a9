//! Whether the shipper can work in Prometheus's data folder, and what waits there. Only reads: whether links can be made is
//! told from what the kernel would look at, not tried.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::findings::Level;
use super::parts::Report;
use crate::cli::Config;
use crate::client::progress::bytes_text;
use pillion_base::files::Disk;
use pillion_ship::{self as ship, DataFolder, DirWarning, Outlook, Verdict};

/// Blocks that are named one by one.
const NAMED_MAX: usize = 5;
/// Where the kernel refuses links to files of others.
const PROTECTED: &str = "/proc/sys/fs/protected_hardlinks";

/// Looks at the folder.
pub(super) fn look(config: &Config, report: &Report) {
    let dir = &config.tsdb_path;
    report.step("looking at the data folder");
    let warnings = match ship::look_at_data_dir(dir) {
        Err(err) => return report.failed(Level::Error, &err, "correct --tsdb.path, or the access to it"),
        Ok(warnings) => warnings,
    };
    let is_writable = !warnings.iter().any(|warning| matches!(warning, DirWarning::NotWritable(_)));
    if warnings.is_empty() {
        report.ok(format!("{} is a data folder of Prometheus, and can be written", dir.display()));
    }
    for warning in warnings {
        match warning {
            DirWarning::NotWritable(err) => report.warning(
                format!(
                    "{} cannot be written ({err}): what is shipped would be remembered until the next restart only, and a \
                     block that Prometheus removes before it is shipped would be lost",
                    dir.display()
                ),
                "run the sidecar as Prometheus's user, or give its own user write access",
            ),
            DirWarning::NoWal(err) => report.warning(
                format!("{} has no wal, which Prometheus has in its data folder ({err})", dir.display()),
                "set --tsdb.path to what Prometheus has as --storage.tsdb.path",
            ),
        }
    }
    if is_writable {
        look_at_own_files(config, report);
        look_at_links(dir, report);
        look_at_room(config, report);
    }
    report.step("reading which blocks wait");
    match outlook(config) {
        Err(err) => report.failed(Level::Error, &err, "mend or remove what cannot be read"),
        Ok(outlook) => tell_blocks(&outlook, report),
    }
}

/// What the shipper would do with the blocks.
pub(super) fn outlook(config: &Config) -> pillion_base::error::Result<Outlook> {
    ship::outlook(&DataFolder {
        disk: &Disk::read_only(),
        dir: &config.tsdb_path,
        meta_file_name: &config.shipper.meta_file_name,
        upload_compacted: config.shipper.upload_compacted,
    })
}

fn tell_blocks(outlook: &Outlook, report: &Report) {
    let (n, bytes) = outlook.to_ship();
    report.ok(format!("{} blocks are here, {n} of them to be uploaded ({})", outlook.blocks.len(), bytes_text(bytes)));
    let bad = outlook.blocks.iter().filter_map(|block| match &block.verdict {
        Verdict::Damaged(why) | Verdict::Unreadable(why) => Some((&block.name, why)),
        Verdict::Ships(_) | Verdict::Stays(_) => None,
    });
    let bad: Vec<_> = bad.collect();
    for (name, why) in bad.iter().take(NAMED_MAX) {
        report.warning(
            format!("block {name} cannot be uploaded as it is: {why}"),
            "repair it or remove it; Prometheus cannot read it either",
        );
    }
    if bad.len() > NAMED_MAX {
        report.warning(format!("{} further blocks cannot be uploaded as they are", bad.len() - NAMED_MAX), "as above");
    }
}

fn is_refused(path: &Path) -> bool {
    accessat(CWD, path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_err()
}

/// What an earlier run has left may belong to another user.
fn look_at_own_files(config: &Config, report: &Report) {
    let folders = ["thanos", "thanos/upload"].map(|name| config.tsdb_path.join(name));
    let refused: Vec<&PathBuf> = folders.iter().filter(|folder| folder.exists() && is_refused(folder)).collect();
    for folder in refused {
        report.warning(
            format!("{} cannot be read and written: blocks could not be claimed", folder.display()),
            "give it to the sidecar's user (chown -R); it is the sidecar's own",
        );
    }
}

/// Whether blocks could be linked into `thanos/upload`.
fn look_at_links(dir: &Path, report: &Report) {
    let own = dir.join("thanos/upload");
    let target = if own.is_dir() { own } else { dir.to_owned() };
    let Some(index) = first_index(dir) else {
        return report.note("whether hard links can be made is not known before there is a block");
    };
    let (Ok(file), Ok(target)) = (std::fs::metadata(&index), std::fs::metadata(&target)) else { return };
    let consequence = "blocks would be held open in place of links, which a restart does not survive";
    if file.dev() != target.dev() {
        return report.warning(
            format!("{} and thanos/upload are on different file systems: {consequence}", index.display()),
            "put both on one file system",
        );
    }
    let user = rustix::process::geteuid();
    let is_protected = std::fs::read_to_string(PROTECTED).is_ok_and(|text| text.trim() == "1");
    let is_writable = accessat(CWD, &index, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    if is_protected && !user.is_root() && file.uid() != user.as_raw() && !is_writable {
        return report.warning(
            format!(
                "{} belongs to another user, and the kernel refuses links to it ({PROTECTED}): {consequence}",
                index.display()
            ),
            "run the sidecar as Prometheus's user",
        );
    }
    report.ok("nothing is known that would refuse hard links of blocks (not tried: nothing is written)");
}

fn first_index(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(Result::ok);
    entries.map(|entry| entry.path().join("index")).find(|index| index.is_file())
}

/// Whether blocks that Prometheus deletes before they are uploaded have room.
fn look_at_room(config: &Config, report: &Report) {
    let (disk, dir, options) = (Disk::read_only(), &config.tsdb_path, &config.shipper);
    let (Ok(capacity), Ok(free)) = (disk.capacity(dir), disk.available(dir)) else {
        return report.note("the size of the file system under --tsdb.path is not known");
    };
    let (budget, reserve) = ship::claim_room(options.claim_budget_bytes, options.claim_reserve_bytes, capacity);
    let text = format!(
        "{} of {} are free; up to {} of them may hold blocks that Prometheus has deleted and that wait for their upload, and {} \
         stay free",
        bytes_text(free),
        bytes_text(capacity),
        bytes_text(budget),
        bytes_text(reserve)
    );
    if free <= reserve {
        report.warning(
            format!("{text}: such blocks would be given up at once"),
            "make room under --tsdb.path, or lower --shipper.claim-reserve",
        );
    } else {
        report.ok(text);
    }
}
