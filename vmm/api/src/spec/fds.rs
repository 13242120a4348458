//! Every descriptor that a spec names, so that each can be taken into possession once at start.
//!
//! Structures are taken apart field by field on purpose: a new field with a descriptor in it does
//! not compile before it is added here.

use super::{
    BlkSpec, ConsoleSpec, DebugConsoleSpec, DeviceKind, DeviceSpec, Fd, HostSpec, ImageSpec,
    LogSpec, MachineSpec, NetBackend, NetSpec, Origin, PortSpec, PortStream, RngSpec, SerialSpec,
    VncSpec,
};

pub(super) fn all(spec: &MachineSpec) -> Vec<Fd> {
    let mut fds = spec.boot.fds();
    match &spec.origin {
        Origin::Fresh => {}
        Origin::Restore { state } => fds.push(state.fd),
    }
    host(&spec.host, &mut fds);
    for device in &spec.devices {
        self::device(device, &mut fds);
    }
    fds
}

fn host(spec: &HostSpec, fds: &mut Vec<Fd>) {
    let HostSpec {
        kvm,
        control,
        run_lock,
        end_reason,
        cores,
        log: own_log,
        vnc,
        start_paused: _,
        powerdown_seconds: _,
    } = spec;
    fds.extend([kvm, control, run_lock, end_reason].into_iter().flatten());
    fds.extend(cores.iter().map(|file| file.fd));
    log(own_log.as_ref(), fds);
    if let Some(VncSpec {
        listeners,
        websockets,
        password: _,
        password_until: _,
        share: _,
    }) = vnc
    {
        fds.extend(listeners.iter().chain(websockets));
    }
}

fn log(spec: Option<&LogSpec>, fds: &mut Vec<Fd>) {
    fds.extend(spec.iter().flat_map(|log| &log.files));
}

fn device(spec: &DeviceSpec, fds: &mut Vec<Fd>) {
    match &spec.kind {
        DeviceKind::Serial(SerialSpec {
            port: _,
            log: own_log,
            console,
            pty,
            output,
        }) => {
            fds.extend([console, pty, output].into_iter().flatten());
            log(own_log.as_ref(), fds);
        }
        DeviceKind::VirtioBlk(BlkSpec { image: own, .. }) => image(own, fds),
        DeviceKind::VirtioRng(RngSpec { source, .. }) => fds.push(*source),
        DeviceKind::DebugConsole(DebugConsoleSpec { output }) => fds.push(*output),
        DeviceKind::VirtioNet(NetSpec { backend, .. }) => match backend {
            NetBackend::Taps(taps) => fds.extend(taps),
            NetBackend::Stream(socket) => fds.push(*socket),
        },
        DeviceKind::VirtioConsole(ConsoleSpec {
            max_ports: _,
            ports,
        }) => ports.iter().for_each(|port| self::port(port, fds)),
        DeviceKind::DebugExit(_)
        | DeviceKind::PvPanic(_)
        | DeviceKind::PcieRootPort(_)
        | DeviceKind::VirtioBalloon(_)
        | DeviceKind::VirtioGpu(_)
        | DeviceKind::VirtioInput(_) => {}
    }
}

fn port(spec: &PortSpec, fds: &mut Vec<Fd>) {
    match &spec.stream {
        PortStream::Null => {}
        PortStream::Socket { listener } => fds.push(*listener),
        PortStream::Console {
            log: own_log,
            socket,
            pty,
        } => {
            fds.extend([socket, pty].into_iter().flatten());
            log(own_log.as_ref(), fds);
        }
    }
}

fn image(spec: &ImageSpec, fds: &mut Vec<Fd>) {
    let mut next = Some(spec);
    while let Some(part) = next {
        let ImageSpec {
            file,
            path: _,
            format: _,
            backing,
            data_file,
        } = part;
        fds.push(*file);
        if let Some(data_file) = data_file {
            self::image(data_file, fds);
        }
        next = backing.as_deref();
    }
}
