use super::*;
use proptest::prelude::*;
use std::fs;

/// A qcow2 version 3 header with the names that a test wants.
fn image(backing: Option<(&str, Option<&str>)>, data_file: Option<&str>) -> Vec<u8> {
    let mut head = vec![0u8; 104];
    head[..4].copy_from_slice(&QCOW2_MAGIC);
    head[4..8].copy_from_slice(&3u32.to_be_bytes());
    head[100..104].copy_from_slice(&104u32.to_be_bytes());
    let mut extension = |kind: u32, text: &str| {
        head.extend(kind.to_be_bytes());
        head.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        head.extend(text.as_bytes());
        head.resize(head.len().next_multiple_of(8), 0);
    };
    if let Some((_, Some(format))) = backing {
        extension(EXTENSION_BACKING_FORMAT, format);
    }
    if let Some(name) = data_file {
        extension(EXTENSION_DATA_FILE, name);
    }
    head.extend([0; 8]);
    if data_file.is_some() {
        head[72..80].copy_from_slice(&INCOMPATIBLE_DATA_FILE.to_be_bytes());
    }
    if let Some((name, _)) = backing {
        let offset = u64::try_from(head.len()).unwrap();
        head[8..16].copy_from_slice(&offset.to_be_bytes());
        head[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        head.extend(name.as_bytes());
    }
    head
}

fn wanted<'a>(path: &'a Path, format: Option<ImageFormat>) -> Wanted<'a> {
    Wanted {
        path,
        format,
        read_only: false,
        shareable: false,
        what: "disk 'vda'",
    }
}

#[test]
fn a_chain_is_opened_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("base.raw"), b"data").unwrap();
    fs::write(
        path("mid.qcow2"),
        image(Some(("base.raw", Some("raw"))), None),
    )
    .unwrap();
    fs::write(
        path("top.qcow2"),
        image(Some(("mid.qcow2", Some("qcow2"))), None),
    )
    .unwrap();
    let mut descriptors = Descriptors::default();
    let top = path("top.qcow2");
    let spec = open(wanted(&top, Some(ImageFormat::Qcow2)), &mut descriptors).unwrap();
    let mid = spec.backing.unwrap();
    assert_eq!(mid.path, path("mid.qcow2").display().to_string());
    assert_eq!(mid.backing.unwrap().format, ImageFormat::Raw);
    assert_eq!(descriptors.into_inner().len(), 3);
}

#[test]
fn a_loop_in_a_chain_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    fs::write(&path, image(Some(("a.qcow2", Some("qcow2"))), None)).unwrap();
    let error = open(
        wanted(&path, Some(ImageFormat::Qcow2)),
        &mut Descriptors::default(),
    );
    assert!(error.unwrap_err().to_string().contains("more than 64"));
}

#[test]
fn formats_are_never_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, image(Some(("b", None)), None)).unwrap();
    let mut descriptors = Descriptors::default();
    let error = open(wanted(&path, None), &mut descriptors).unwrap_err();
    assert!(
        error.hints.iter().any(|hint| hint.contains("qcow2")),
        "{error}"
    );
    let error = open(wanted(&path, Some(ImageFormat::Qcow2)), &mut descriptors).unwrap_err();
    assert!(
        error.to_string().contains("not that file's format"),
        "{error}"
    );
    open(wanted(&path, Some(ImageFormat::Raw)), &mut descriptors).unwrap();
    fs::write(&path, b"plain").unwrap();
    let error = open(wanted(&path, Some(ImageFormat::Qcow2)), &mut descriptors).unwrap_err();
    assert!(error.to_string().contains("no qcow2"), "{error}");
}

#[test]
fn an_external_data_file_is_opened_with_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    fs::write(&path, image(None, Some("a.data"))).unwrap();
    let mut descriptors = Descriptors::default();
    let error = open(wanted(&path, Some(ImageFormat::Qcow2)), &mut descriptors).unwrap_err();
    assert!(error.to_string().contains("a.data"), "{error}");
    fs::write(dir.path().join("a.data"), b"").unwrap();
    let spec = open(wanted(&path, Some(ImageFormat::Qcow2)), &mut descriptors).unwrap();
    assert!(spec.data_file.is_some());
}

#[test]
fn a_disk_with_a_writer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.raw");
    fs::write(&path, vec![0; 512]).unwrap();
    let other = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    assert!(crate::spawn::take_lock(&other).unwrap());
    let error = open(wanted(&path, None), &mut Descriptors::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.message.contains("a.raw"), "{error}");
    drop(other);
    open(wanted(&path, None), &mut Descriptors::default()).unwrap();
}

proptest! {
    #[test]
    fn any_header_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..400),
            version in 2u32..4, offset in any::<u64>(), size in any::<u32>(), length in any::<u32>()) {
        let mut head = bytes;
        head.resize(head.len().max(104), 0);
        head[..4].copy_from_slice(&QCOW2_MAGIC);
        head[4..8].copy_from_slice(&version.to_be_bytes());
        head[8..16].copy_from_slice(&(offset % 500).to_be_bytes());
        head[16..20].copy_from_slice(&(size % 1200).to_be_bytes());
        head[100..104].copy_from_slice(&(length % 300).to_be_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, &head).unwrap();
        let _ = header(&fs::File::open(&path).unwrap());
    }
}
