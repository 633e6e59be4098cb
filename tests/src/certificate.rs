//! Certificates for servers of tests, made by the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// A certificate that signs itself, so that it is its own authority, and its key: both PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one for a host name or an address, valid for a day.
    pub fn for_host(directory: &Path, host: &str) -> Result<Self> {
        let made = Self { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") };
        let kind = if host.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]);
        openssl.arg("-subj").arg(format!("/CN={host}")).arg("-addext").arg(format!("subjectAltName={kind}:{host}"));
        // Without this it says that it is an authority, which rustls takes for no server's certificate.
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(&made.key).arg("-out").arg(&made.certificate).stdin(Stdio::null());
        let output = openssl.output().context("cannot run openssl")?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(made)
    }

    /// Makes one that was good in January 2020 only: signed by a small authority, for that is what can date back.
    pub fn expired(directory: &Path, host: &str) -> Result<Self> {
        let made = Self { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") };
        let kind = if host.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
        let settings = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n\
             x509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName={kind}:{host}\n\
             basicConstraints=critical,CA:FALSE\n"
        );
        for (name, text) in [("ca.cnf", settings.as_str()), ("index", ""), ("serial", "01\n")] {
            std::fs::write(directory.join(name), text)?;
        }
        let subject = format!("/CN={host}");
        let request =
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem -subj";
        let sign = "ca -batch -notext -selfsign -config ca.cnf -keyfile key.pem -in request.pem -out certificate.pem \
                    -startdate 20200101000000Z -enddate 20200201000000Z";
        for (command, subject) in [(request, Some(subject)), (sign, None)] {
            let mut openssl = Command::new("openssl");
            openssl.args(command.split_whitespace()).args(subject).current_dir(directory).stdin(Stdio::null());
            let output = openssl.output().context("cannot run openssl")?;
            ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(made)
    }

    /// Whether certificates can be made here.
    pub fn can_be_made() -> bool {
        Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}
