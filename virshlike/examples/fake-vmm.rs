//! A `vmm` without KVM, for tests of the manager as people use it: `VM_VMM=.../fake-vmm vm start`.
#![deny(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use virshlike::runtime::fake;
use virshlike::spawn;
use vmm_api::spec::MachineSpec;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(flag), Some(number)) = (arguments.next(), arguments.next()) else {
        return Err("usage: fake-vmm --spec-fd N".into());
    };
    if flag == "--cpuid-fd" {
        println!("{}", serde_json::to_string(&fake::host_cpu())?);
        return Ok(());
    }
    if flag != "--spec-fd" {
        return Err(format!("unknown option {flag}").into());
    }
    if let (Some("--after-fd"), Some(gate)) = (arguments.next().as_deref(), arguments.next()) {
        let mut gate = File::from(spawn::inherited(gate.parse()?)?);
        std::io::copy(&mut gate, &mut std::io::sink())?;
    }
    let mut json = Vec::new();
    File::from(spawn::inherited(number.parse()?)?).read_to_end(&mut json)?;
    fake::serve_process(MachineSpec::from_json(&json)?)?;
    Ok(())
}
