//! What this host and this build can do, in the XML that libvirt's clients read: `capabilities` and
//! `domcapabilities`. virt-install and others choose devices by it, so it must never promise what a
//! start would refuse.

use super::described::{guest_set, host_set};
use super::node::{self, Cell, Kernel};
use super::{Manager, boot};
use crate::error::{Error, Kind, Result};
use crate::xml::NewElement;
use std::collections::BTreeSet;
use std::path::Path;
use vmm_api::cpu::{self, HostCpu, MODELS};
use vmm_api::spec::{MACHINE_NEWEST, MAX_VCPUS};

/// The one architecture of guests.
pub const ARCH: &str = "x86_64";
/// Names of machines that a definition may say beside the version itself.
const MACHINES: [&str; 2] = ["q35", "pc"];

/// What `domcapabilities` is asked about; everything may be left out.
#[derive(Debug, Clone, Default)]
pub struct Asked<'a> {
    /// `kvm`.
    pub virttype: Option<&'a str>,
    /// A path; every domain runs ours whatever it is.
    pub emulator: Option<&'a str>,
    /// `x86_64`.
    pub arch: Option<&'a str>,
    /// A machine's name or version.
    pub machine: Option<&'a str>,
}

impl Asked<'_> {
    /// Refuses what no guest here can be.
    ///
    /// # Errors
    /// Another architecture, hypervisor or machine.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String, hint: String| Err(Error::new(Kind::Usage, what).hint(hint));
        if let Some(arch) = self.arch.filter(|arch| *arch != ARCH) {
            return refuse(
                format!("invalid argument: guests of architecture '{arch}' do not run here"),
                format!("the architecture is {ARCH}"),
            );
        }
        if let Some(kind) = self.virttype.filter(|kind| *kind != "kvm") {
            return refuse(
                format!("invalid argument: there are no domains of type '{kind}' here"),
                "the type is kvm".into(),
            );
        }
        let known = |name: &str| {
            MACHINES.contains(&name) || name == MACHINE_NEWEST || name.starts_with("pc-")
        };
        if let Some(machine) = self.machine.filter(|machine| !known(machine)) {
            return refuse(
                format!("invalid argument: the machine '{machine}' is not known here"),
                format!("it takes {MACHINE_NEWEST}, or q35 or pc for the newest"),
            );
        }
        Ok(())
    }
}

fn element(name: &str) -> NewElement {
    NewElement::new(name)
}

fn text(name: &str, value: impl ToString) -> NewElement {
    element(name).text(value.to_string())
}

fn kib(name: &str, value: u64) -> NewElement {
    text(name, value).attribute("unit", "KiB")
}

fn with(parent: NewElement, children: impl IntoIterator<Item = NewElement>) -> NewElement {
    children.into_iter().fold(parent, NewElement::child)
}

impl Manager {
    /// The capabilities of host and hypervisor.
    pub fn capabilities(&self) -> String {
        let cells = Kernel::default().cells();
        // Without KVM the host is still described.
        let offered = self.host_cpu().ok();
        let host = element("host")
            .child(host_cpu_element(offered.as_ref(), &cells))
            .child(element("power_management"))
            .child(element("iommu").attribute("support", "no"))
            .child(topology(&cells));
        let guest = element("guest")
            .child(text("os_type", "hvm"))
            .child(self.guest_arch(offered.as_ref()))
            .child(guest_features());
        element("capabilities").child(host).child(guest).to_text()
    }

    fn guest_arch(&self, offered: Option<&HostCpu>) -> NewElement {
        let most = most_vcpus(offered).to_string();
        let machine = |name: &str| text("machine", name).attribute("maxCpus", &most);
        let arch = element("arch")
            .attribute("name", ARCH)
            .child(text("wordsize", 64))
            .child(text("emulator", self.driver.program().display()))
            .child(machine(MACHINE_NEWEST));
        let aliases = MACHINES.map(|name| {
            text("machine", name)
                .attribute("canonical", MACHINE_NEWEST)
                .attribute("maxCpus", &most)
        });
        with(arch, aliases).child(element("domain").attribute("type", "kvm"))
    }

    /// What a domain can be made of here.
    ///
    /// # Errors
    /// Something that no guest here can be.
    pub fn domain_capabilities(&self, asked: &Asked<'_>) -> Result<String> {
        asked.check()?;
        let offered = self.host_cpu().ok();
        let path = match asked.emulator {
            Some(path) => path.to_string(),
            None => self.driver.program().display().to_string(),
        };
        let domain = element("domainCapabilities")
            .child(text("path", path))
            .child(text("domain", "kvm"))
            .child(text("machine", MACHINE_NEWEST))
            .child(text("arch", ARCH))
            .child(element("vcpu").attribute("max", most_vcpus(offered.as_ref()).to_string()))
            .child(supported("iothreads", true))
            .child(firmware(boot::bios(self.bios.as_deref()).as_deref()))
            .child(cpu_modes(offered.as_ref()))
            .child(
                supported("memoryBacking", true)
                    .child(choices("sourceType", &["memfd", "anonymous"])),
            )
            .child(devices())
            .child(features());
        Ok(domain.to_text())
    }

    /// Most vCPUs that a guest can have here.
    ///
    /// # Errors
    /// There is no KVM that could be asked.
    pub fn most_vcpus(&self) -> Result<u32> {
        Ok(most_vcpus(Some(&self.host_cpu()?)))
    }
}

fn most_vcpus(offered: Option<&HostCpu>) -> u32 {
    offered.map_or(MAX_VCPUS, |host| host.max_vcpus.min(MAX_VCPUS))
}

/// The host's processor: what KVM offers, as a model and what is beside it.
fn describe(host: &HostCpu) -> NewElement {
    let mut described = element("cpu").child(text("arch", ARCH));
    if let Some(model) = cpu::closest(&host_set(host), host.vendor()) {
        described = described.child(text("model", model.name));
    }
    if let Some(vendor) = host.vendor() {
        described = described.child(text("vendor", vendor.as_str()));
    }
    let (family, number, stepping) = host.signature();
    described.child(
        element("signature")
            .attribute("family", family.to_string())
            .attribute("model", number.to_string())
            .attribute("stepping", stepping.to_string()),
    )
}

/// Features of the host beside those of the model that [`describe`] names.
fn beyond(host: &HostCpu) -> impl Iterator<Item = NewElement> {
    let set = host_set(host);
    let model = cpu::closest(&set, host.vendor()).map(|model| model.set());
    let names = set.minus(&model.unwrap_or_default()).names().into_iter();
    names.map(|name| element("feature").attribute("name", name))
}

/// The host's processor with every feature, for comparing.
#[cfg(test)]
pub(super) fn describe_host(host: &HostCpu) -> NewElement {
    with(describe(host), beyond(host))
}

fn host_cpu_element(offered: Option<&HostCpu>, cells: &[Cell]) -> NewElement {
    let described = match offered {
        Some(host) => describe(host),
        None => element("cpu").child(text("arch", ARCH)),
    };
    let count = |of: &dyn Fn(&node::Cpu) -> (u32, u32, u32)| {
        let all = cells.iter().flat_map(|cell| &cell.cpus);
        all.map(of).collect::<BTreeSet<_>>().len().max(1)
    };
    let sockets = count(&|cpu| (cpu.socket_id, 0, 0));
    let dies = count(&|cpu| (cpu.socket_id, cpu.die_id, 0));
    let cores = count(&|cpu| (cpu.socket_id, cpu.die_id, cpu.core_id));
    let threads: usize = cells.iter().map(|cell| cell.cpus.len()).sum();
    let described = described.child(
        element("topology")
            .attribute("sockets", sockets.to_string())
            .attribute("dies", (dies / sockets).max(1).to_string())
            .attribute("cores", (cores / dies).max(1).to_string())
            .attribute("threads", (threads / cores).max(1).to_string()),
    );
    let mut described = match offered {
        Some(host) => with(
            described.child(
                element("maxphysaddr")
                    .attribute("mode", "emulate")
                    .attribute("bits", host.physical_bits().to_string()),
            ),
            beyond(host),
        ),
        None => described,
    };
    for size in [4, node::huge_page_kib()]
        .into_iter()
        .filter(|size| *size > 0)
    {
        described = described.child(
            element("pages")
                .attribute("unit", "KiB")
                .attribute("size", size.to_string()),
        );
    }
    described
}

fn topology(cells: &[Cell]) -> NewElement {
    let list = element("cells").attribute("num", cells.len().to_string());
    element("topology").child(with(list, cells.iter().map(|one| cell(one, cells))))
}

fn cell(cell: &Cell, all: &[Cell]) -> NewElement {
    let distances = cell.distances.iter().zip(all).map(|(distance, other)| {
        element("sibling")
            .attribute("id", other.id.to_string())
            .attribute("value", distance.to_string())
    });
    let cpus = cell.cpus.iter().map(|cpu| {
        element("cpu")
            .attribute("id", cpu.id.to_string())
            .attribute("socket_id", cpu.socket_id.to_string())
            .attribute("die_id", cpu.die_id.to_string())
            .attribute("core_id", cpu.core_id.to_string())
            .attribute("siblings", &cpu.siblings)
    });
    let pages = kib("pages", cell.memory_kib / 4).attribute("size", "4");
    let mut described = element("cell")
        .attribute("id", cell.id.to_string())
        .child(kib("memory", cell.memory_kib))
        .child(pages);
    if !cell.distances.is_empty() {
        described = described.child(with(element("distances"), distances));
    }
    let list = element("cpus").attribute("num", cell.cpus.len().to_string());
    described.child(with(list, cpus))
}

fn guest_features() -> NewElement {
    let always = |name: &str| {
        element(name)
            .attribute("default", "on")
            .attribute("toggle", "no")
    };
    element("features")
        .child(always("acpi"))
        .child(always("apic"))
        .child(element("cpuselection"))
}

fn supported(name: &str, yes: bool) -> NewElement {
    element(name).attribute("supported", if yes { "yes" } else { "no" })
}

fn choices(name: &str, values: &[&str]) -> NewElement {
    let list = element("enum").attribute("name", name);
    with(list, values.iter().map(|value| text("value", value)))
}

/// A domain without a `<kernel>` boots by the host's SeaBIOS, or by a BIOS of its own.
fn firmware(bios: Option<&Path>) -> NewElement {
    let path = bios.map(|path| path.display().to_string());
    let loader = supported("loader", true);
    let loader = with(loader, path.iter().map(|path| text("value", path)))
        .child(choices("type", &["rom"]))
        .child(choices("readonly", &["yes", "no"]))
        .child(choices("secure", &["no"]));
    let kinds: &[&str] = if path.is_some() { &["bios"] } else { &[] };
    supported("os", true)
        .child(choices("firmware", kinds))
        .child(loader)
}

fn cpu_modes(offered: Option<&HostCpu>) -> NewElement {
    let mode = |name: &str, yes: bool| supported("mode", yes).attribute("name", name);
    let set = offered.map(guest_set);
    let model = set.and_then(|set| Some((set, cpu::nearest(&set, offered?.vendor())?)));
    let mut host_model = mode("host-model", model.is_some());
    if let Some((set, model)) = model {
        host_model = host_model.child(text("model", model.name).attribute("fallback", "forbid"));
        if let Some(vendor) = offered.and_then(HostCpu::vendor) {
            host_model = host_model.child(text("vendor", vendor.as_str()));
        }
        let names = set.minus(&model.set()).names();
        host_model = with(host_model, names.into_iter().map(required));
        let lacking = model.set().minus(&set).names().into_iter();
        host_model = with(host_model, lacking.map(|name| rule("disable", name)));
    }
    let models = MODELS.iter().map(|model| {
        let usable = match &set {
            Some(set) if model.set().is_within(set) => "yes",
            Some(_) => "no",
            None => "unknown",
        };
        let vendor = model.vendor.map_or("unknown", |vendor| vendor.as_str());
        text("model", model.name)
            .attribute("usable", usable)
            .attribute("vendor", vendor)
    });
    element("cpu")
        .child(
            mode("host-passthrough", true)
                .child(choices("hostPassthroughMigratable", &["on", "off"])),
        )
        .child(mode("maximum", true).child(choices("maximumMigratable", &["off"])))
        .child(host_model)
        .child(with(mode("custom", true), models))
}

/// A feature that a CPU must have.
pub fn required(name: &str) -> NewElement {
    rule("require", name)
}

fn rule(policy: &str, name: &str) -> NewElement {
    element("feature")
        .attribute("policy", policy)
        .attribute("name", name)
}

/// Devices that a definition may hold and a start does not refuse.
fn devices() -> NewElement {
    let disk = supported("disk", true)
        .child(choices("diskDevice", &["disk", "cdrom"]))
        .child(choices("bus", &["virtio"]))
        .child(choices("model", &["virtio", "virtio-non-transitional"]));
    let rng = supported("rng", true)
        .child(choices("model", &["virtio", "virtio-non-transitional"]))
        .child(choices("backendModel", &["random"]));
    element("devices")
        .child(disk)
        .child(supported("graphics", true).child(choices("type", &["vnc"])))
        .child(supported("video", true).child(choices("modelType", &["virtio", "none"])))
        .child(supported("hostdev", false))
        .child(rng)
        .child(supported("filesystem", false))
        .child(supported("tpm", false))
        .child(supported("redirdev", false))
        .child(supported("interface", true).child(choices("backendType", &["default", "passt"])))
}

fn features() -> NewElement {
    let none = [
        "gic",
        "vmcoreinfo",
        "genid",
        "backingStoreInput",
        "backup",
        "sev",
        "sgx",
        "hyperv",
    ];
    with(element("features"), none.map(|name| supported(name, false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;
    use crate::runtime::fake;
    use crate::xml::Document;

    fn document(text: &str) -> Document {
        Document::parse(text, "capabilities").expect("well-formed")
    }

    #[test]
    fn a_host_is_described_by_a_model_and_what_is_beside_it() {
        let cells = [Cell {
            id: 0,
            memory_kib: 1024,
            cpus: (0..8)
                .map(|id| node::Cpu {
                    id,
                    socket_id: id / 4,
                    die_id: 0,
                    core_id: id / 2 % 2,
                    siblings: id.to_string(),
                })
                .collect(),
            distances: vec![10],
        }];
        let text = host_cpu_element(Some(&fake::host_cpu()), &cells).to_text();
        let document = document(&text);
        let child = |name: &str| document.root().child(name).expect("it");
        assert_eq!(child("model").text(), "Haswell-noTSX-IBRS");
        assert_eq!(child("vendor").text(), "Intel");
        let topology = ["sockets", "dies", "cores", "threads"]
            .map(|name| child("topology").value(name).expect("a number").to_string());
        assert_eq!(topology, ["2", "1", "2", "2"]);
        let features: Vec<_> = document
            .root()
            .children_named("feature")
            .filter_map(|feature| feature.value("name"))
            .collect();
        assert!(
            features.contains(&"umip") && !features.contains(&"avx2"),
            "{features:?}"
        );
    }

    #[test]
    fn what_is_promised_is_started() {
        let text = devices().to_text();
        let document = document(&text);
        let values = |device: &str, name: &str| -> Vec<String> {
            let device = document.root().child(device).expect("a device");
            let list = device
                .children_named("enum")
                .find(|list| list.value("name") == Some(name))
                .expect("a list");
            list.children()
                .map(|value| value.text().to_string())
                .collect()
        };
        let mut devices = Vec::new();
        for bus in values("disk", "bus") {
            for device in values("disk", "diskDevice") {
                for model in values("disk", "model") {
                    devices.push(format!(
                        "<disk type='file' device='{device}' model='{model}'><source file='/d'/>\
                         <target dev='vda' bus='{bus}'/></disk>"
                    ));
                }
            }
        }
        for model in values("rng", "model") {
            for backend in values("rng", "backendModel") {
                devices.push(format!(
                    "<rng model='{model}'><backend model='{backend}'>/dev/urandom</backend></rng>"
                ));
            }
        }
        for device in devices {
            let text = format!(
                "<domain type='kvm'><name>a</name><memory>65536</memory><os><type>hvm</type>\
                 <kernel>/k</kernel></os><devices>{device}</devices></domain>"
            );
            let (domain, warnings) =
                Domain::parse(&Document::parse(&text, "a").expect("XML")).expect("a definition");
            assert!(domain.refusals_at_start().is_empty(), "{device}");
            assert!(warnings.is_empty(), "{device}: {warnings}");
        }
    }

    #[test]
    fn usable_models_are_those_that_would_start() {
        let host = fake::host_cpu();
        let text = cpu_modes(Some(&host)).to_text();
        let document = document(&text);
        let custom = document
            .root()
            .children_named("mode")
            .find(|mode| mode.value("name") == Some("custom"))
            .expect("custom");
        for model in custom.children_named("model") {
            let spec = vmm_api::spec::CpuSpec {
                model: vmm_api::spec::CpuModel::Named {
                    name: model.text().into(),
                    beyond: false,
                },
                ..vmm_api::spec::CpuSpec::fixed(1)
            };
            let starts = cpu::choose(&spec, &host).is_ok();
            assert_eq!(
                model.value("usable") == Some("yes"),
                starts,
                "{}",
                model.text()
            );
        }
    }

    #[test]
    fn other_architectures_and_hypervisors_are_refused() {
        let asked = |arch, virttype, machine| {
            Asked {
                arch,
                virttype,
                machine,
                emulator: None,
            }
            .check()
            .is_ok()
        };
        assert!(asked(None, None, None));
        assert!(asked(Some("x86_64"), Some("kvm"), Some("q35")));
        assert!(!asked(Some("aarch64"), None, None));
        assert!(!asked(None, Some("xen"), None));
        assert!(!asked(None, None, Some("virt")));
    }
}
