//! Beside real Prometheus releases that want TLS and a password, or a client certificate: everything works, a refusal says
//! what to change, and whatever is replaced under load, no call fails.

use crate::support;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::support::api_client::{RULES, call, connect};
use crate::support::attackers::{Running, repeat};
use crate::support::certificates::{Certificates, HERE};
use crate::support::prometheus::{Release, releases};
use crate::support::sidecar::{PATIENCE, Sidecar, pause};
use crate::support::store_client::{Store, request};
use pillion_proto::thanos_rules::RulesRequest;
use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest};
use support::server::{Server, free_port};

/// Of `secret` and of `other`, at the least cost.
const SECRET: &str = "$2b$04$5619t7kf944.Vkq5NGrQ4.bYSRJlC8qBWrnI2WDrJOzKx.HPdJw.i";
const OTHER: &str = "$2b$04$mPnLGnQwp58mgE2Vgfn.V.wx31Kx/mruTVqxK/po5ch9g5DVxE7DC";

const PASSWORD: &str =
    "basic_auth: {username: me, password_file: DIR/password}\ntls_config: {ca_file: DIR/trusted.pem}\n";
const CERTIFICATE: &str =
    "tls_config: {ca_file: DIR/trusted.pem, cert_file: DIR/client.pem, key_file: DIR/client.key}\n";

/// A Prometheus behind TLS, with a series that a rule makes, and the files of both sides.
struct Rig {
    made: Certificates,
    port: u16,
    _prometheus: Server,
}

impl Rig {
    fn start(release: &Release, web: &str) -> Rig {
        println!("Prometheus {}.{}", release.version.0, release.version.1);
        let made = Certificates::new();
        let port = free_port();
        made.write(
            "prometheus.yml",
            "global: {evaluation_interval: 1s, external_labels: {region: eu}}\nrule_files: [rules.yml]\n",
        );
        made.write(
            "rules.yml",
            "groups: [{name: g, interval: 1s, rules: [{record: 'secure:one', expr: 'vector(1)'}]}]\n",
        );
        made.replace("here.pem", "server.pem");
        made.replace("here.key", "server.key");
        made.replace("ca.pem", "trusted.pem");
        made.write("password", "secret\n");
        let tls = "tls_server_config: {cert_file: server.pem, key_file: server.key";
        put_web(&made, &format!("{tls}{web}"));
        let mut command = Command::new(release.program());
        command
            .arg(format!("--config.file={}", made.path("prometheus.yml").display()))
            .arg(format!("--web.config.file={}", made.path("web.yml").display()))
            .arg(format!("--storage.tsdb.path={}", made.path("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let prometheus = Server::start("prometheus", &mut command);
        // Nobody but Pillion gives a password, so the log has to say it.
        let deadline = Instant::now() + PATIENCE;
        while !prometheus.log().contains("Server is ready to receive web requests") {
            assert!(Instant::now() < deadline, "{}", prometheus.log());
            pause();
        }
        Rig { made, port, _prometheus: prometheus }
    }

    fn args(&self, client: &str) -> [String; 2] {
        let yaml = client.replace("DIR", &self.made.dir().display().to_string());
        [format!("--prometheus.url=https://127.0.0.1:{}", self.port), format!("--prometheus.http-client={yaml}")]
    }

    fn sidecar(&self, client: &str) -> Sidecar {
        let args = self.args(client);
        let sidecar = Sidecar::start(&args.each_ref().map(String::as_str));
        sidecar.wait_ready(true);
        // The rule makes its series within some seconds.
        let store = Store::connect(sidecar.grpc);
        let deadline = Instant::now() + PATIENCE;
        while let Err(err) = ask(&store) {
            assert!(Instant::now() < deadline, "no series: {err}\n{}", sidecar.log());
            pause();
        }
        sidecar
    }

    #[track_caller]
    fn refused(&self, client: &str, parts: &[&str]) {
        refused(&self.args(client), parts);
    }
}

/// Prometheus refuses such a client, and the log says it so.
#[track_caller]
fn refused(args: &[String], parts: &[&str]) {
    let sidecar = Sidecar::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let line = sidecar.wait_line("failed to fetch prometheus version");
    assert!(parts.iter().all(|part| line.contains(part)), "{line} lacks one of {parts:?}");
    assert!(!sidecar.log().contains("wrong1"), "{}", sidecar.log());
    sidecar.wait_ready(false);
}

fn put_web(made: &Certificates, text: &str) {
    made.put("web.yml", text);
}

fn web_of(hash: &str) -> String {
    format!("}}\nbasic_auth_users: {{me: '{hash}'}}\n")
}

/// The series of the rule, with the external label, by a Series call and by label calls.
fn ask(store: &Store) -> Result<(), String> {
    let answer = store.series(&request(&[("__name__", "=", "secure:one")]));
    if (answer.code(), answer.labels()) != (0, vec!["__name__=secure:one region=eu".to_owned()]) {
        return Err(format!("{answer:?}"));
    }
    // Of all times from 1970 to 2100.
    let (start, end) = (0, 4_102_444_800_000);
    let names = LabelNamesRequest { start, end, ..Default::default() };
    let names = store.label_names(&names).map_err(|err| err.to_string())?.names;
    let values = LabelValuesRequest { label: "__name__".into(), start, end, ..Default::default() };
    let values = store.label_values(&values).map_err(|err| err.to_string())?.values;
    match names == ["__name__", "region"] && values.contains(&"secure:one".to_owned()) {
        true => Ok(()),
        false => Err(format!("{names:?} {values:?}")),
    }
}

fn works(sidecar: &Sidecar) {
    ask(&Store::connect(sidecar.grpc)).unwrap();
    let rules = call(&connect(sidecar.grpc), &RULES, &RulesRequest::default()).unwrap();
    assert!(rules.iter().any(|answer| answer.group().name == "g"), "{rules:?}");
}

#[test]
fn prometheus_with_tls_and_a_password() {
    for release in releases() {
        let rig = Rig::start(&release, &web_of(SECRET));
        let sidecar = rig.sidecar(PASSWORD);
        works(&sidecar);
        assert_eq!(sidecar.metric("thanos_sidecar_prometheus_up"), 1.0);
        let wrong = PASSWORD.replace("password_file: DIR/password", "password: wrong1");
        rig.refused(&wrong, &["401", "Unauthorized", "see basic_auth and bearer_token of --prometheus.http-client"]);
        rig.refused(
            &PASSWORD.replace("trusted", "other"),
            &["not signed by an authority that is trusted here", "tls_config.ca_file of --prometheus.http-client"],
        );
        let name = PASSWORD.replace("trusted.pem", "trusted.pem, server_name: p.test");
        rig.refused(&name, &["is for another host: not for p.test", "tls_config.server_name"]);
        let mut args = rig.args(PASSWORD);
        args[0] = args[0].replace("https:", "http:");
        refused(&args, &["400", "--prometheus.url must begin with https://"]);
        assert_eq!(sidecar.stop().code(), Some(0));
    }
}

#[test]
fn the_file_is_read_again_at_sighup() {
    for release in releases() {
        let rig = Rig::start(&release, &web_of(SECRET));
        let file = rig.made.arg("prometheus.http-client-file", "client.yml");
        let yaml = |text: &str| {
            rig.made.put("client.yml", text.replace("DIR", &rig.made.dir().display().to_string()));
        };
        yaml(PASSWORD);
        let sidecar = Sidecar::ready(&format!("https://127.0.0.1:{}", rig.port), &[&file]);
        yaml("basic_auht: {}\n");
        sidecar.signal("HUP");
        let line = sidecar.wait_line("reloading the HTTP client for Prometheus failed");
        assert!(line.contains("client.yml: line 1: field basic_auht not found"), "{line}");
        yaml(&PASSWORD.replace("password_file: DIR/password", "password: wrong1"));
        sidecar.signal("HUP");
        sidecar.wait_line("HTTP client for Prometheus: the change is in use");
        sidecar.wait_ready(false);
        yaml(&PASSWORD.replace("password_file: DIR/password", "password: secret"));
        sidecar.signal("HUP");
        sidecar.wait_line("HTTP client for Prometheus: the change is in use");
        sidecar.wait_ready(true);
        sidecar.signal("HUP");
        sidecar.wait_line("HTTP client for Prometheus: as before");
        assert!(!sidecar.log().contains("wrong1"), "{}", sidecar.log());
    }
}

#[test]
fn prometheus_that_wants_a_certificate() {
    for release in releases() {
        let web = ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem}\n";
        let rig = Rig::start(&release, web);
        works(&rig.sidecar(CERTIFICATE));
        rig.refused(
            "tls_config: {ca_file: DIR/trusted.pem}",
            &["give tls_config.cert_file and key_file of --prometheus.http-client"],
        );
    }
}

/// Calls one after the other, until it is dropped.
struct Load {
    running: Vec<Running>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn begin(sidecar: &Sidecar) -> Load {
        let failed = Arc::<Mutex<Vec<String>>>::default();
        let running = (0..3).map(|_| {
            let (store, told) = (Store::connect(sidecar.grpc), Arc::clone(&failed));
            repeat(50, 0, move || ask(&store).map_err(|err| told.lock().unwrap().push(err)).ok())
        });
        let load = Load { running: running.collect(), failed };
        load.goes_on("the beginning");
        load
    }

    /// Waits until each has asked some times more, and none has failed.
    #[track_caller]
    fn goes_on(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        let wanted: Vec<u64> = self.running.iter().map(|running| running.n_rounds() + 20).collect();
        while self.running.iter().zip(&wanted).any(|(running, wanted)| running.n_rounds() < *wanted) {
            assert!(Instant::now() < deadline, "calls stand still");
            pause();
        }
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} calls failed after {what}: {:#?}", failed.len(), failed.first());
    }
}

#[test]
fn password_and_certificates_are_replaced_under_load() {
    for release in releases() {
        let rig = Rig::start(&release, &web_of(SECRET));
        let sidecar = rig.sidecar(PASSWORD);
        let load = Load::begin(&sidecar);
        let made = &rig.made;
        made.put("password", "other\n");
        load.goes_on("the new password in the file");
        let tls = "tls_server_config: {cert_file: server.pem, key_file: server.key";
        put_web(made, &format!("{tls}{}", web_of(OTHER)));
        load.goes_on("the new password in Prometheus");
        // Half written, and missing for a moment.
        made.write("password", "");
        load.goes_on("an empty file");
        std::fs::remove_file(made.path("password")).unwrap();
        load.goes_on("a missing file");
        made.put("password", "other\n");

        made.leaf("next", "other", HERE);
        made.put("trusted.pem", [made.read("ca.pem"), made.read("other.pem")].concat());
        load.goes_on("two authorities");
        // Prometheus reads both files anew for each connection, so they are replaced while none is opened: it would refuse
        // a pair that does not belong together.
        made.write("web.next", format!("{}{}", tls.replace("server.", "next."), web_of(OTHER)));
        made.replace("web.next", "web.yml");
        load.goes_on("the new certificate");
        made.replace("other.pem", "trusted.pem");
        load.goes_on("the old authority gone");
        let old = PASSWORD.replace("trusted", "ca");
        rig.refused(&old, &["not signed by an authority that is trusted here"]);
        assert_eq!(sidecar.metric("thanos_sidecar_prometheus_up"), 1.0);
        let n_rounds: Vec<u64> = load.running.iter().map(Running::n_rounds).collect();
        println!("rounds of calls: {n_rounds:?}");
        drop(load);
        let log = sidecar.log();
        assert_eq!(log.matches("cannot use the new basic_auth.password_file").count(), 2, "{log}");
        assert!(log.contains("a file of tls_config has changed and is in use"), "{log}");
        assert!(!log.contains("not-ready"), "{log}");
    }
}
