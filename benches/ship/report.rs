//! Settings, rows, what they should be, and how they are printed.

use serde::Serialize;

pub const MIB: f64 = 1024.0 * 1024.0;
const GB: f64 = 1e9;

/// Where the block goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Folder,
    Rgw,
}

/// One measurement to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub target: Target,
    /// The yardstick, instead of Pillion.
    pub is_curl: bool,
    pub n_connections: usize,
    /// `send_content_md5` of the bucket's configuration.
    pub md5: bool,
    /// `--hash-func=SHA256`.
    pub sha256: bool,
}

impl Setting {
    /// A folder with and without hashes; the server over one and four connections, each with curl first.
    pub fn all() -> Vec<Setting> {
        let folder = Setting { target: Target::Folder, is_curl: false, n_connections: 1, md5: false, sha256: false };
        let mut all = vec![folder, Setting { sha256: true, ..folder }];
        for n_connections in [1, 4] {
            let rgw = Setting { target: Target::Rgw, n_connections, ..folder };
            all.push(Setting { is_curl: true, ..rgw });
            for (md5, sha256) in [(true, false), (false, false), (false, true), (true, true)] {
                all.push(Setting { md5, sha256, ..rgw });
            }
        }
        all
    }

    /// The setting in words.
    pub fn words(&self) -> String {
        let on = |is_on: bool, word: &'static str| if is_on { word } else { "" };
        let target = if self.target == Target::Folder { "folder" } else { "rgw" };
        let subject = if self.is_curl { "curl" } else { "pillion" };
        let connections = if self.n_connections == 1 { "1 connection" } else { "4 connections" };
        format!("{subject} {target}, {connections}{}{}", on(self.md5, ", MD5"), on(self.sha256, ", SHA256"))
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub setting: Setting,
    pub n_bytes: u64,
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub idle_rss_bytes: u64,
    pub peak_rss_bytes: u64,
    /// Why there are no figures; empty if there are.
    pub error: String,
}

/// An aim, and what was reached.
#[derive(Debug, Serialize)]
pub struct Aim {
    what: String,
    figure: f64,
    at_least: Option<f64>,
    at_most: Option<f64>,
    reached: bool,
}

impl Row {
    /// No figures yet.
    pub fn new(setting: Setting, n_bytes: u64) -> Self {
        let (wall_seconds, cpu_seconds, idle_rss_bytes, peak_rss_bytes) = (0.0, 0.0, 0, 0);
        Row { setting, n_bytes, wall_seconds, cpu_seconds, idle_rss_bytes, peak_rss_bytes, error: String::new() }
    }

    pub fn header() -> String {
        format!(
            "{:<40} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}",
            "setting", "wall s", "MB/s", "cpu s", "cpu s/GB", "idle MiB", "peak MiB"
        )
    }

    pub fn line(&self) -> String {
        let words = self.setting.words();
        if !self.error.is_empty() {
            return format!("{words:<40} FAILED: {}", self.error);
        }
        format!(
            "{words:<40} {:>8.2} {:>8.0} {:>8.2} {:>9.2} {:>9.1} {:>9.1}",
            self.wall_seconds,
            self.rate() / 1e6,
            self.cpu_seconds,
            self.cpu_seconds / self.n_bytes as f64 * GB,
            self.idle_rss_bytes as f64 / MIB,
            self.peak_rss_bytes as f64 / MIB,
        )
    }

    /// `Units:` bytes per second.
    fn rate(&self) -> f64 {
        self.n_bytes as f64 / self.wall_seconds
    }
}

impl Aim {
    pub fn line(&self) -> String {
        let word = if self.reached { "reached" } else { "MISSED " };
        let bound = match (self.at_least, self.at_most) {
            (Some(bound), _) => format!("at least {bound:.2}"),
            (_, Some(bound)) => format!("at most {bound:.2}"),
            _ => String::new(),
        };
        format!("{word}  {:>9.2} {bound:<15} {}", self.figure, self.what)
    }
}

/// What the issue asks for, where the rows can tell.
pub fn aims(rows: &[Row]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for row in rows.iter().filter(|row| !row.setting.is_curl) {
        let is_good = row.error.is_empty();
        let figure = row.peak_rss_bytes.saturating_sub(row.idle_rss_bytes) as f64 / MIB;
        let what = format!("growth in MiB: {}", row.setting.words());
        aims.push(Aim { what, figure, at_least: None, at_most: Some(16.0), reached: is_good && figure <= 16.0 });
        // Hashing the files first is work that curl does not do.
        let curl = rows.iter().find(|other| {
            let (ours, its) = (&row.setting, &other.setting);
            its.is_curl && !ours.sha256 && (ours.target, ours.n_connections) == (its.target, its.n_connections)
        });
        if let Some(curl) = curl.filter(|curl| curl.error.is_empty()) {
            let figure = row.rate() / curl.rate();
            let what = format!("throughput over curl's: {}", row.setting.words());
            aims.push(Aim { what, figure, at_least: Some(0.8), at_most: None, reached: is_good && figure >= 0.8 });
        }
    }
    aims
}
