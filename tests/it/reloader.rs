//! The reloader beside real Prometheus releases: rules and configuration change, break and are mended, by request and by
//! signal; and what a Prometheus that takes no reloads has it say.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::fake_prometheus::FakePrometheus;
use crate::support::prometheus::releases;
use crate::support::server::{Server, free_port, get};
use crate::support::sidecar::{PATIENCE, Sidecar, pause};

const FAILING: &str = "pillion_reloader_failing{reason=\"refused\"}";
const SUCCESSFUL: &str = "thanos_sidecar_reloader_last_reload_successful";
/// Only changes count, so that a test which is mended by a retry fails.
const NO_TIMERS: [&str; 3] =
    ["--reloader.watch-interval=0s", "--reloader.retry-interval=1h", "--reloader.debounce=100ms"];

/// A Prometheus whose configuration the sidecar writes, and its rules.
struct Pair {
    dir: TempDir,
    port: u16,
    prometheus: Option<Server>,
    sidecar: Sidecar,
}

impl Pair {
    /// `program` is started as it is named.
    fn start(program: &Path, args: &[&str]) -> Pair {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        std::fs::create_dir(dir.path().join("rules")).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(
            path("in.yml"),
            format!(
                "global:\n  external_labels:\n    region: $(PILLION_TEST_REGION)\nrule_files: ['{}']\n",
                path("rules/*.yml")
            ),
        )
        .unwrap();
        let own = [
            format!("--prometheus.url=http://127.0.0.1:{port}"),
            format!("--reloader.config-file={}", path("in.yml")),
            format!("--reloader.config-envsubst-file={}", path("out.yml")),
            format!("--reloader.rule-dir={}", path("rules/")),
        ];
        let args: Vec<&str> = own.iter().map(String::as_str).chain(NO_TIMERS).chain(args.iter().copied()).collect();
        let sidecar = Sidecar::start_with(&args, |command| {
            command.env("PILLION_TEST_REGION", "here");
        });
        // The sidecar makes what Prometheus starts with.
        sidecar.wait_line("Failed to trigger reload. Retrying.");
        let mut prometheus = Server::start(
            "prometheus",
            Command::new(program)
                .arg(format!("--config.file={}", path("out.yml")))
                .arg(format!("--storage.tsdb.path={}", path("data")))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg("--web.enable-lifecycle"),
        );
        let ready = format!("http://127.0.0.1:{port}/-/ready");
        prometheus.wait_for("readiness", || get(&ready, &[]).filter(|(status, _)| *status == 200));
        sidecar.wait_ready(true);
        Pair { dir, port, prometheus: Some(prometheus), sidecar }
    }

    fn write(&self, name: &str, content: &str) {
        let beside = self.dir.path().join("beside");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, self.dir.path().join(name)).unwrap();
    }

    fn rule(&self, record: &str) {
        self.write(
            "rules/a.yml",
            &format!("groups:\n- name: a\n  rules:\n  - record: {record}\n    expr: vector(1)\n"),
        );
    }

    /// The names of the rules that Prometheus has.
    fn rules(&self) -> Vec<String> {
        let (_, body) = get(&format!("http://127.0.0.1:{}/api/v1/rules", self.port), &[]).expect("Prometheus answers");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        rules.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn wait_rules(&self, expected: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while self.rules() != expected {
            assert!(Instant::now() < deadline, "{:?}, expected {expected:?}:\n{}", self.rules(), self.sidecar.log());
            pause();
        }
    }

    /// Rules that come, change, break and are mended.
    fn live(&self, refusal: &str) {
        self.rule("one");
        self.wait_rules(&["one"]);
        self.sidecar.wait_metric(SUCCESSFUL, |n| n == 1.0);
        self.rule("two");
        self.wait_rules(&["two"]);

        self.write("rules/a.yml", "groups: nonsense\n");
        self.sidecar.wait_metric(FAILING, |n| n == 1.0);
        assert_eq!(self.sidecar.metric(SUCCESSFUL), 0.0);
        self.sidecar.wait_line(refusal);
        assert_eq!(self.rules(), ["two"]);
        self.rule("two");
        self.sidecar.wait_metric(SUCCESSFUL, |n| n == 1.0);
        assert_eq!(self.sidecar.metric(FAILING), 0.0);

        let good = std::fs::read_to_string(self.dir.path().join("in.yml")).unwrap();
        self.write("in.yml", &good.replace("here", "there").replace("$(PILLION_TEST_REGION)", "$(PILLION_TEST_UNSET)"));
        let unset = "thanos_sidecar_reloader_config_environment_variable_expansion_errors";
        self.sidecar.wait_metric(unset, |n| n == 1.0);
        self.write("in.yml", &good.replace("$(PILLION_TEST_REGION)", "$(PILLION_TEST_REGION)-too"));
        self.sidecar.wait_metric(unset, |n| n == 0.0);
        let config = format!("http://127.0.0.1:{}/api/v1/status/config", self.port);
        let deadline = Instant::now() + PATIENCE;
        while !get(&config, &[]).expect("Prometheus answers").1.contains("region: here-too") {
            assert!(Instant::now() < deadline, "{}", self.sidecar.log());
            pause();
        }
    }

    fn stop(mut self) -> ExitStatus {
        let status = self.sidecar.stop();
        assert!(self.prometheus.take().expect("it runs").terminate().success());
        status
    }
}

#[test]
fn rules_and_configuration_of_real_releases_by_request() {
    for release in releases() {
        let pair = Pair::start(&release.program(), &[]);
        pair.live("received non-200 response: 500 Internal Server Error: failed to reload config: ");
        // What Prometheus says of a configuration that it cannot read, word by word.
        pair.write("in.yml", "global: {no_such_key: 1}\n");
        let line = pair.sidecar.wait_line("field no_such_key not found");
        assert!(line.contains("level=error component=reloader"), "{line}");
        assert!(line.contains("reason=refused"), "{line}");
        assert!(pair.stop().success());
    }
}

#[test]
fn rules_and_configuration_of_real_releases_by_signal() {
    for (idx, release) in releases().into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        // The other Prometheuses of this machine have another name.
        let name = format!("prom{idx}-{}", std::process::id());
        std::os::unix::fs::symlink(release.program(), dir.path().join(&name)).unwrap();
        let process_name = format!("--reloader.process-name={name}");
        let pair = Pair::start(&dir.path().join(&name), &["--reloader.method=signal", &process_name]);
        pair.live("configuration reload has failed");
        assert_eq!(pair.sidecar.metric("thanos_sidecar_reloader_info{method=\"signal\"}"), 1.0);
        assert!(pair.stop().success());
    }
}

#[test]
fn a_prometheus_that_takes_no_reloads_has_the_flag_named() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.overrides = vec![("/-/reload".into(), 403, "Lifecycle API is not enabled.".into())]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in.yml"), "global: {}\n").unwrap();
    let config = format!("--reloader.config-file={}", dir.path().join("in.yml").display());
    let sidecar = Sidecar::ready(&prometheus.url(), &[&config]);
    let line = sidecar.wait_line("Failed to trigger reload. Retrying.");
    let want = "trigger reload: received non-200 response: 403 Forbidden: Lifecycle API is not enabled.; have you set \
                `--web.enable-lifecycle` Prometheus flag?";
    assert!(line.contains(want), "{line}");
    sidecar.wait_metric("pillion_reloader_failing{reason=\"disabled\"}", |n| n == 1.0);
    assert!(sidecar.stop().success());
}

#[test]
fn without_its_flags_there_is_no_reloader() {
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    assert!(sidecar.log().contains("component=reloader msg=\"nothing to be watched\""), "{}", sidecar.log());
    assert_eq!(sidecar.metric("thanos_sidecar_reloader_info{method=\"http\"}"), 1.0);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", sidecar.pid())).unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    assert!(!names.into_iter().any(|name| name.trim_end() == "reload"));
}

/// A Prometheus that takes the request and never answers does not hold up the stop.
#[test]
fn the_stop_cuts_a_reload() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in.yml"), "global: {}\n").unwrap();
    let config = format!("--reloader.config-file={}", dir.path().join("in.yml").display());
    let url = format!("--prometheus.url=http://{}", listener.local_addr().unwrap());
    let sidecar = Sidecar::start(&[&config, &url]);
    sidecar.wait_line("starting sidecar");
    sidecar.wait_metric("thanos_sidecar_reloader_reloads_total", |n| n == 1.0);
    let begun = Instant::now();
    assert!(sidecar.stop().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}
