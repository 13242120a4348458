//! Sections in the container: a small fixed head, the names, the payload as JSON.

use super::SnapshotError;
use devices::state::Section;

/// Bytes before the names: version, payload length, lengths of the two names, checksum.
const HEAD: usize = 16;

/// Appends a section.
pub(super) fn write(out: &mut Vec<u8>, section: &Section) -> Result<(), SnapshotError> {
    let payload = serde_json::to_vec(&section.payload)
        .map_err(|error| SnapshotError::State(error.to_string()))?;
    let (Ok(length), Ok(device), Ok(kind)) = (
        u32::try_from(payload.len()),
        u16::try_from(section.device.len()),
        u16::try_from(section.kind.len()),
    ) else {
        return Err(SnapshotError::State(format!(
            "section '{}' of device '{}' is too large",
            section.kind, section.device
        )));
    };
    let mut bytes = Vec::with_capacity(HEAD + payload.len() + 64);
    bytes.extend_from_slice(&section.version.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&device.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    let mut body = section.device.clone().into_bytes();
    body.extend_from_slice(section.kind.as_bytes());
    body.extend_from_slice(&payload);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &body);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(&body);
    out.append(&mut bytes);
    Ok(())
}

/// Parses `count` sections that fill `bytes`.
pub(super) fn parse(bytes: &[u8], count: u32) -> Result<Vec<Section>, SnapshotError> {
    let mut rest = bytes;
    let mut sections = Vec::new();
    for number in 0..count {
        let (section, behind) = parse_one(rest, number, sections.last())?;
        sections.push(section);
        rest = behind;
    }
    if rest.is_empty() {
        Ok(sections)
    } else {
        Err(SnapshotError::Damaged(format!(
            "{} bytes follow the last section",
            rest.len()
        )))
    }
}

fn parse_one<'a>(
    bytes: &'a [u8],
    number: u32,
    before: Option<&Section>,
) -> Result<(Section, &'a [u8]), SnapshotError> {
    let place = || match before {
        Some(section) => format!(
            "section {number}, behind '{}' of '{}'",
            section.kind, section.device
        ),
        None => format!("section {number}"),
    };
    let short = || SnapshotError::Damaged(format!("{} is cut short", place()));
    let (head, behind) = bytes.split_first_chunk::<HEAD>().ok_or_else(short)?;
    let [
        v0,
        v1,
        v2,
        v3,
        l0,
        l1,
        l2,
        l3,
        d0,
        d1,
        k0,
        k1,
        c0,
        c1,
        c2,
        c3,
    ] = *head;
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let device = usize::from(u16::from_le_bytes([d0, d1]));
    let kind = usize::from(u16::from_le_bytes([k0, k1]));
    let total = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(device + kind));
    let (body, behind) = total
        .and_then(|total| behind.split_at_checked(total))
        .ok_or_else(short)?;
    let (device, rest) = body.split_at_checked(device).ok_or_else(short)?;
    let (kind, payload) = rest.split_at_checked(kind).ok_or_else(short)?;
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let damaged = |reason: String| {
        SnapshotError::Damaged(format!(
            "section '{}' of device '{}' ({}): {reason}",
            text(kind),
            text(device),
            place()
        ))
    };
    let sum = crc32c::crc32c_append(crc32c::crc32c(head.get(..12).unwrap_or_default()), body);
    if sum != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(damaged("its checksum is wrong".into()));
    }
    let payload = serde_json::from_slice(payload).map_err(|error| damaged(error.to_string()))?;
    let section = Section {
        device: text(device),
        kind: text(kind),
        version,
        payload,
    };
    Ok((section, behind))
}
