//! CPUs that files describe, against the host's and against each other: `cpu-compare`,
//! `cpu-baseline` and their hypervisor forms.
//!
//! A file may hold a `<cpu>` as a domain or a host writes it, a whole domain, capabilities or domain
//! capabilities, or several of these one after the other. Nothing here asks KVM.

use super::capabilities::{ARCH, required};
use crate::error::{Error, Kind, Result};
use crate::manager::definition::mistakes;
use crate::xml::{Document, Element, NewElement, Position};
use vmm_api::cpu::{self, Feature, HostCpu, Set, Vendor};

/// More documents than anybody compares.
const MOST_CPUS: usize = 1000;

/// A CPU that a file describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// What it has.
    pub set: Set,
    /// What a host must not have for it.
    forbidden: Set,
    /// Features that it has and we do not know.
    unknown: Vec<String>,
    /// Its maker.
    pub vendor: Option<Vendor>,
    strict: bool,
}

/// How a host stands to a CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Identical,
    /// The host has more.
    Superset,
    /// The host lacks something, or has too much; why.
    Incompatible(String),
}

/// Reads every CPU that a text describes.
///
/// # Errors
/// What is wrong with it, with line and column; a text without any CPU.
pub fn read(text: &str, file: &str) -> Result<Vec<Described>> {
    let document = parse(text, file)?;
    let mut found = Vec::new();
    collect(document.root(), &mut found);
    if found.is_empty() {
        let at = document.root().position();
        return Err(wrong(&document, at, "no <cpu> is described here"));
    }
    found
        .into_iter()
        .take(MOST_CPUS)
        .map(|element| describe(&document, element))
        .collect()
}

/// One document, or several put into one.
fn parse(text: &str, file: &str) -> Result<Document> {
    let first = match Document::parse(text, file) {
        Ok(document) => return Ok(document),
        Err(found) => found,
    };
    let mut all = String::from("<container>");
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<?xml") {
        all.push_str(before);
        rest = after.split_once("?>").map_or("", |(_, behind)| behind);
    }
    all.push_str(rest);
    all.push_str("</container>");
    Document::parse(&all, file).map_err(|_| mistakes(&first))
}

/// `<cpu>` elements, and what a hypervisor calls its host-model.
fn collect<'a>(element: Element<'a>, found: &mut Vec<Element<'a>>) {
    match element.name() {
        "cpu" => found.push(element),
        "capabilities" => {
            found.extend(element.child("host").and_then(|host| host.child("cpu")));
        }
        "domain" => found.extend(element.child("cpu")),
        "domainCapabilities" => {
            let modes = element.child("cpu").into_iter();
            found.extend(
                modes
                    .flat_map(|cpu| cpu.children_named("mode"))
                    .filter(|mode| mode.value("name") == Some("host-model")),
            );
        }
        "container" => {
            for child in element.children() {
                collect(child, found);
            }
        }
        _ => {}
    }
}

fn wrong(document: &Document, at: Position, why: &str) -> Error {
    let file = document.file_name();
    Error::new(Kind::Definition, "the CPU description has a mistake")
        .cause(format!("{file}:{at}: {why}"))
}

fn describe(document: &Document, element: Element<'_>) -> Result<Described> {
    if let Some(arch) = element.child("arch")
        && arch.text().trim() != ARCH
    {
        let why = format!("CPUs of {} are not compared with this one", arch.text());
        return Err(wrong(document, arch.position(), &why));
    }
    let mut described = Described {
        strict: element.value("match") == Some("strict"),
        ..Described::default()
    };
    match element.child("model") {
        Some(child) => {
            let name = child.text().trim();
            let Some(model) = cpu::find_model(name) else {
                let why = format!("there is no CPU model '{name}' here");
                return Err(wrong(document, child.text_position(), &why)
                    .hint("vm cpu-models x86_64 lists those that there are"));
            };
            described.set = model.set();
            described.vendor = model.vendor;
        }
        None if element.child("feature").is_none() => {
            return Err(wrong(
                document,
                element.position(),
                "the CPU has no <model>",
            ));
        }
        None => {}
    }
    if let Some(vendor) = element.child("vendor") {
        let name = vendor.text().trim();
        described.vendor = Some(Vendor::named(name).ok_or_else(|| {
            let why = format!("'{name}' makes no such processors");
            wrong(document, vendor.text_position(), &why).hint("it takes Intel, AMD or Hygon")
        })?);
    }
    for child in element.children_named("feature") {
        rule(document, child, &mut described)?;
    }
    Ok(described)
}

/// A host's features have no policy: they are there.
fn rule(document: &Document, element: Element<'_>, described: &mut Described) -> Result<()> {
    let Some(name) = element.value("name") else {
        return Err(wrong(document, element.position(), "<feature> has no name"));
    };
    let feature = Feature::named(name);
    match (element.value("policy"), feature) {
        (None | Some("require" | "force"), Some(feature)) => described.set.insert(feature),
        (None | Some("require" | "force"), None) => described.unknown.push(name.to_string()),
        (Some("disable"), Some(feature)) => described.set.remove(feature),
        (Some("forbid"), Some(feature)) => {
            described.set.remove(feature);
            described.forbidden.insert(feature);
        }
        (Some("optional" | "disable" | "forbid"), _) => {}
        (Some(other), _) => {
            let why = format!("'{other}' is no policy");
            return Err(wrong(document, element.position(), &why)
                .hint("it takes force, require, optional, disable or forbid"));
        }
    }
    Ok(())
}

/// The host's processor: what KVM offers, less what makes it a guest's.
pub fn host_set(host: &HostCpu) -> Set {
    let mut set = host.set().intersection(&Set::processor());
    if let Some(feature) = Feature::named("hypervisor") {
        set.remove(feature);
    }
    set
}

/// What a guest with host-model is shown here.
pub fn guest_set(host: &HostCpu) -> Set {
    cpu::migratable(&host.set()).intersection(&Set::processor())
}

impl Described {
    /// How a host with `offered` stands to it.
    pub fn compare(&self, offered: &Set, vendor: Option<Vendor>) -> Comparison {
        if self.vendor.is_some() && vendor.is_some() && self.vendor != vendor {
            let name = |vendor: Option<Vendor>| vendor.map_or("nobody", Vendor::as_str);
            return Comparison::Incompatible(format!(
                "it is made by {}, the host's CPU by {}",
                name(self.vendor),
                name(vendor)
            ));
        }
        let mut missing: Vec<String> = self
            .set
            .minus(offered)
            .names()
            .into_iter()
            .map(str::to_string)
            .collect();
        missing.extend(self.unknown.iter().cloned());
        if !missing.is_empty() {
            let list = missing.join(",");
            return Comparison::Incompatible(format!(
                "Host CPU does not provide required features: {list}"
            ));
        }
        let forbidden = self.forbidden.intersection(offered);
        if !forbidden.is_empty() {
            let list = forbidden.names().join(",");
            return Comparison::Incompatible(format!(
                "Host CPU provides forbidden features: {list}"
            ));
        }
        let more = offered.minus(&self.set);
        match more.is_empty() {
            true => Comparison::Identical,
            false if self.strict => {
                let list = more.names().join(",");
                Comparison::Incompatible(format!(
                    "Host CPU does not strictly match: extra features: {list}"
                ))
            }
            false => Comparison::Superset,
        }
    }
}

/// What a baseline shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown {
    /// The model's own features by name, too.
    pub features: bool,
    /// Without what cannot migrate.
    pub migratable: bool,
    /// What stands in `fallback=`.
    pub fallback: &'static str,
}

/// The CPU that all of these and guests of this host can be shown, as a definition's `<cpu>`.
///
/// # Errors
/// Different makers; nothing that they have in common.
pub fn baseline(cpus: &[Described], own: Option<&HostCpu>, shown: Shown) -> Result<NewElement> {
    let own_vendor = own.and_then(HostCpu::vendor);
    let described = cpus.iter().filter_map(|described| described.vendor);
    let mut vendors = own_vendor.into_iter().chain(described);
    let vendor = vendors.next();
    if vendors.any(|other| Some(other) != vendor) {
        return Err(
            Error::new(Kind::Usage, "operation failed: CPU vendors do not match")
                .hint("the levels x86-64-v1 to x86-64-v4 run on processors of all makers"),
        );
    }
    let sets = cpus
        .iter()
        .map(|described| described.set)
        .chain(own.map(guest_set));
    let common = sets.reduce(|a, b| a.intersection(&b)).unwrap_or_default();
    let common = match shown.migratable {
        true => cpu::migratable(&common),
        false => common,
    };
    let Some(model) = cpu::closest(&common, vendor) else {
        return Err(Error::new(
            Kind::Usage,
            "operation failed: there is no CPU model that all of them can be shown",
        )
        .hint("look at them one by one: vm cpu-compare FILE"));
    };
    let name = NewElement::new("model")
        .attribute("fallback", shown.fallback)
        .text(model.name);
    let mut element = NewElement::new("cpu")
        .attribute("mode", "custom")
        .attribute("match", "exact")
        .child(name);
    if let Some(vendor) = vendor {
        element = element.child(NewElement::new("vendor").text(vendor.as_str()));
    }
    let listed = match shown.features {
        true => common,
        false => common.minus(&model.set()),
    };
    let names = listed.names().into_iter();
    Ok(names.fold(element, |element, name| element.child(required(name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake;

    fn one(text: &str) -> Described {
        let mut found = read(text, "cpu.xml").expect("a description");
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    fn compare(text: &str) -> Comparison {
        let host = fake::host_cpu();
        one(text).compare(&host_set(&host), host.vendor())
    }

    #[test]
    fn a_host_is_identical_to_its_own_description() {
        let host = fake::host_cpu();
        let text = super::super::capabilities::describe_host(&host).to_text();
        assert_eq!(compare(&text), Comparison::Identical, "{text}");
        let inside = format!("<capabilities><host>{text}</host></capabilities>");
        assert_eq!(compare(&inside), Comparison::Identical);
    }

    #[test]
    fn less_is_a_superset_and_more_is_incompatible() {
        assert_eq!(
            compare("<cpu match='exact'><model>Westmere</model></cpu>"),
            Comparison::Superset
        );
        let Comparison::Incompatible(why) = compare("<cpu><model>Broadwell</model></cpu>") else {
            panic!("a newer one");
        };
        assert!(why.contains("rdseed") && why.contains("hle"), "{why}");
        for text in [
            "<cpu><model>EPYC</model></cpu>",
            "<cpu match='strict'><model>Westmere</model></cpu>",
            "<cpu><model>Westmere</model><feature policy='forbid' name='avx'/></cpu>",
            "<cpu><model>Westmere</model><feature policy='require' name='made-up'/></cpu>",
        ] {
            assert!(
                matches!(compare(text), Comparison::Incompatible(_)),
                "{text}"
            );
        }
        let less = "<cpu><model>Broadwell-noTSX</model><feature policy='disable' name='adx'/>\
            <feature policy='disable' name='rdseed'/><feature policy='disable' name='smap'/>\
            <feature policy='disable' name='3dnowprefetch'/></cpu>";
        assert_eq!(compare(less), Comparison::Superset);
    }

    #[test]
    fn mistakes_have_a_place() {
        for (text, place) in [
            ("<cpu>\n <model>Hasvell</model></cpu>", "2:9"),
            ("<domain><name>a</name></domain>", "1:1"),
            (
                "<cpu>\n<arch>ppc64</arch><model>POWER8</model></cpu>",
                "2:1",
            ),
            (
                "<cpu><model>Haswell</model>\n<feature policy='maybe' name='avx'/></cpu>",
                "2:1",
            ),
            ("<cpu/>", "1:1"),
        ] {
            let error = read(text, "cpu.xml").expect_err(text);
            assert!(
                error.to_string().contains(&format!("cpu.xml:{place}: ")),
                "{error}"
            );
        }
        assert!(read("no XML", "cpu.xml").is_err());
    }

    #[test]
    fn a_baseline_is_what_all_of_them_have() {
        let text = "<?xml version='1.0'?>\n<cpu><arch>x86_64</arch><model>Haswell</model><vendor>Intel</vendor>\
                    <feature name='umip'/></cpu>\n<?xml version='1.0'?>\n<cpu><arch>x86_64</arch>\
                    <model>IvyBridge</model><vendor>Intel</vendor><feature name='umip'/><feature name='invtsc'/></cpu>";
        let cpus = read(text, "both.xml").expect("two");
        assert_eq!(cpus.len(), 2);
        let shown = Shown {
            fallback: "allow",
            ..Shown::default()
        };
        let found = baseline(&cpus, None, shown).expect("a model").to_text();
        let expected = "<cpu mode='custom' match='exact'>\n  <model fallback='allow'>IvyBridge</model>\n  \
                        <vendor>Intel</vendor>\n  <feature policy='require' name='umip'/>\n</cpu>\n";
        assert_eq!(found, expected);
        let all = Shown {
            features: true,
            ..shown
        };
        let found = baseline(&cpus, None, all).expect("a model").to_text();
        assert!(
            found.contains("name='sse2'") && !found.contains("avx2"),
            "{found}"
        );
        let other = one("<cpu><model>EPYC</model></cpu>");
        let both = [cpus[0].clone(), other];
        assert!(baseline(&both, None, shown).is_err());
    }
}
