//! FTP of real clients: in active mode through an SNAT entry, in passive mode both ways.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::configuration::base;
use crate::gateway::{Gateway, socket};
use crate::lab::Lab;
use crate::with_all_back_ends;

with_all_back_ends! { active_ftp active_ftp_without_the_option passive_ftp }

/// A server that connects to its clients from port 20, as the RFC wants it, and to nobody but the client itself.
fn serve(lab: &Lab) {
    serve_at(lab, "server", "port_enable=YES\npasv_enable=NO\n");
}

fn serve_at(lab: &Lab, host: &str, modes: &str) {
    let directory = lab.directory().join("ftp");
    // Whoever serves has no rights of his own.
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o755)).expect("a directory");
    fs::create_dir_all(directory.join("files")).expect("a directory");
    fs::create_dir_all(lab.directory().join("empty")).expect("a directory");
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(directory.join("files/large"), content).expect("a file");
    let configuration = format!(
        "listen=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nno_anon_password=YES\nftp_username=daemon\n\
         anon_root={}\nsecure_chroot_dir={}\nconnect_from_port_20=YES\n{modes}seccomp_sandbox=NO\n",
        directory.display(),
        lab.directory().join("empty").display(),
    );
    fs::write(lab.directory().join("vsftpd.conf"), configuration).expect("a file");
    let path = lab.directory().join("vsftpd.conf");
    lab.serve(host, &format!("exec /usr/sbin/vsftpd {}", path.display()), 21);
}

fn configuration(lab: &Lab, back_end: &str, ftp: bool) -> String {
    // The SNAT entry is the last table.
    base(back_end, &socket(lab)) + &format!("ftp = {ftp}\n")
}

fn active_ftp(back_end: &str) {
    let lab = Lab::new();
    serve(&lab);
    let gateway = Gateway::start(&lab, &configuration(&lab, back_end, true));
    let original = fs::read(lab.directory().join("ftp/files/large")).expect("a file");
    let clients = [
        // EPRT, PORT, and another client with many transfers on one control connection.
        "curl -sS --fail --max-time 20 --ftp-port - -o down ftp://198.51.100.20/files/large",
        "curl -sS --fail --max-time 20 --ftp-port - --disable-eprt -o down ftp://198.51.100.20/files/large",
        "lftp -c 'set net:timeout 10; set net:max-retries 2; set ftp:passive-mode no; set xfer:clobber yes; \
         open 198.51.100.20; cls files; cls files; cls files; cls files; cls files; cls files; get files/large -o down'",
    ];
    for command in clients {
        let _ = fs::remove_file(lab.directory().join("down"));
        lab.run("web", command);
        let down = fs::read(lab.directory().join("down")).expect("a download");
        assert!(down == original, "{command}: {} bytes", down.len());
    }
    gateway.finish();
}

fn active_ftp_without_the_option(back_end: &str) {
    let lab = Lab::new();
    serve(&lab);
    let gateway = Gateway::start(&lab, &configuration(&lab, back_end, false));
    let command = "curl -sS --fail --max-time 8 --ftp-port - -o down ftp://198.51.100.20/files/large";
    assert!(lab.attempt("web", command).is_err());
    gateway.finish();
}

/// The client connects for the data, too, so that nothing need be rewritten.
fn passive_ftp(back_end: &str) {
    let lab = Lab::new();
    for host in ["server", "app"] {
        serve_at(&lab, host, "port_enable=NO\npasv_enable=YES\n");
    }
    let gateway = Gateway::start(&lab, &configuration(&lab, back_end, false));
    let original = fs::read(lab.directory().join("ftp/files/large")).expect("a file");
    for (host, address) in [("web", "198.51.100.20"), ("client", "203.0.113.17"), ("web", "203.0.113.17")] {
        // EPSV, and PASV, whose address such a client does not heed.
        for mode in ["", "--disable-epsv"] {
            let _ = fs::remove_file(lab.directory().join("down"));
            lab.run(
                host,
                &format!(
                    "curl -sS --fail --max-time 20 --ftp-pasv {mode} -o down ftp://{address}/files/large"
                ),
            );
            let down = fs::read(lab.directory().join("down")).expect("a download");
            assert!(down == original, "{host} {address} {mode}: {} bytes", down.len());
        }
    }
    gateway.finish();
}
