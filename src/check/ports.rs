//! Whether both ports are free: each is bound, and let go of at once. Of a port that is taken, the kernel tells which process
//! has it.

use std::path::Path;

use super::parts::Report;
use crate::cli::Config;
use pillion_http::address::ListenAddress;
use pillion_http::listen::Listener;

/// A socket that listens, in the kernel's tables.
const LISTENS: &str = "0A";

/// Tries both ports.
pub(super) fn look(config: &Config, report: &Report) {
    report.step("trying the ports");
    let addresses =
        [(&config.http_address, "HTTP", "--http-address"), (&config.grpc_address, "gRPC", "--grpc-address")];
    // Kept until both are there: they must not have the same port.
    let mut held = Vec::new();
    for (address, protocol, flag) in addresses {
        match Listener::bind(address, protocol, flag) {
            Ok(listener) => {
                held.push(listener);
                report.ok(format!("{protocol} can be served on {address}"));
            }
            Err(err) => {
                let text = format!("{protocol} cannot be served on {address}: {err}");
                tell_taken(address, &text, flag, report);
            }
        }
    }
}

fn tell_taken(address: &ListenAddress, text: &str, flag: &str, report: &Report) {
    let other = format!("change {flag}, or end what has the port");
    match owner(address.port()) {
        Some((pid, _)) if pid == std::process::id() => {
            report.error(format!("{text} (both flags name one port)"), format!("give {flag} another port"));
        }
        Some((pid, name)) if name == "pillion" => {
            report.note(format!("{text}; it is a running Pillion (process {pid}) that has it"));
        }
        Some((pid, name)) => report.error(format!("{text}; {name} (process {pid}) has it"), other),
        None => report.error(text, other),
    }
}

/// The process that listens on a port, and its name; `None` where the kernel does not tell us.
fn owner(port: u16) -> Option<(u32, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<String> = tables.iter().flat_map(|table| listeners(table, port)).collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let has_it = |pid: &u32| {
        let files = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).into_iter().flatten();
        let mut targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
    };
    let pid = processes.filter(|_| !links.is_empty()).find(has_it)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim().to_owned()))
}

/// The inodes of the sockets of a table that listen on a port.
///
/// `Source:` proc_net_tcp.txt of the kernel: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
fn listeners(table: &str, port: u16) -> Vec<String> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && fields.get(3) == Some(&LISTENS);
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_who_listens() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:2A95 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100\n   \
                     1: 0100007F:2A95 0100007F:1234 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 20\n   \
                     2: garbage\n";
        assert_eq!(listeners(table, 10_901), ["4711"]);
        assert!(listeners(table, 10_902).is_empty() && listeners("", 1).is_empty());
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (pid, _) = owner(taken.local_addr().unwrap().port()).expect("this process may look at itself");
        assert_eq!(pid, std::process::id());
    }
}
