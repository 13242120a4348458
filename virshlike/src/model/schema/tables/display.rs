//! Displays, video, input, sound.

use crate::model::schema::row::Value::{Empty, Number, OnOff, OneOf, Text, Words, YesNo};
use crate::model::schema::row::{Group, honoured, kept_word, part, warned, warned_word, word};

pub(super) const GROUPS: &[Group] = &[GRAPHICS, VIDEO, INPUT, SOUND];

const GRAPHICS: Group = Group {
    title: "Displays",
    bases: &["devices"],
    rows: &[
        part("graphics", Empty).many(),
        honoured(
            "graphics@type",
            Words(&[
                word("vnc"),
                warned_word("spice", "there is no SPICE; use type='vnc'"),
                warned_word("sdl", "there is no window on the host; use type='vnc'"),
                warned_word("dbus", "there is no D-Bus display; use type='vnc'"),
                warned_word("rdp", "there is no RDP server; use type='vnc'"),
                warned_word("desktop", "there is no window on the host; use type='vnc'"),
                warned_word("egl-headless", "nothing is rendered on the host"),
            ]),
            "vnc",
        ),
        honoured("graphics@port", Text, "-1 for the first free one from 5900"),
        part("graphics@tlsPort", Text),
        honoured(
            "graphics@websocket",
            Text,
            "-1 for the first free port from 5700; without TLS",
        ),
        part(
            "graphics@autoport,multiUser,replaceUser,fullscreen,p2p",
            YesNo,
        ),
        part("graphics@websocketGenerated,wsGenerated", YesNo),
        part(
            "graphics@listen,socket,passwdValidTo,display,xauth,username,address",
            Text,
        ),
        honoured(
            "graphics@passwd",
            Text,
            "VNC's own: eight bytes and DES, which keeps out nobody who can listen",
        ),
        warned(
            "graphics@keymap",
            Text,
            "keys come by their place where the viewer can tell it, else by an American layout",
        ),
        part("graphics@powerControl", YesNo),
        honoured(
            "graphics@sharePolicy",
            OneOf(&["allow-exclusive", "force-shared", "ignore"]),
            "allow-exclusive",
        ),
        part("graphics@connected", OneOf(&["keep", "disconnect", "fail"])),
        part(
            "graphics@defaultMode",
            OneOf(&["secure", "insecure", "any"]),
        ),
        part("graphics/listen", Empty).many(),
        part(
            "graphics/listen@type",
            OneOf(&["address", "network", "socket", "none"]),
        ),
        part("graphics/listen@address,network,socket", Text),
        part("graphics/channel", Empty).many(),
        part("graphics/channel@name", Text),
        part(
            "graphics/channel@mode",
            OneOf(&["secure", "insecure", "any"]),
        ),
        part(
            "graphics/image,jpeg,zlib,playback,streaming,clipboard,mouse,filetransfer,gl,audio",
            Empty,
        ),
        part("graphics/image@compression", Text),
        part("graphics/jpeg@compression", Text),
        part("graphics/zlib@compression", Text),
        part("graphics/playback@compression", OnOff),
        part("graphics/streaming@mode", OneOf(&["filter", "all", "off"])),
        part("graphics/clipboard@copypaste", YesNo),
        part("graphics/mouse@mode", OneOf(&["client", "server"])),
        part("graphics/filetransfer@enable", YesNo),
        part("graphics/gl@enable", YesNo),
        part("graphics/gl@rendernode", Text),
        part("graphics/audio@id", Number),
    ],
};

const VIDEO: Group = Group {
    title: "Video cards",
    bases: &["devices"],
    rows: &[
        part("video", Empty).many(),
        part("video/model", Empty),
        honoured(
            "video/model@type",
            Words(&[
                word("none"),
                word("virtio"),
                warned_word("vga", MAPPED),
                warned_word("cirrus", MAPPED),
                warned_word("qxl", MAPPED),
                warned_word("bochs", MAPPED),
                kept_word("ramfb", NO_CARD),
                kept_word("vmvga", NO_CARD),
                kept_word("xen", NO_CARD),
                kept_word("vbox", NO_CARD),
                kept_word("gop", NO_CARD),
                word("default"),
            ]),
            "a virtio card, or none",
        ),
        honoured(
            "video/model@vram",
            Number,
            "of a virtio card: KiB that pictures of the guest may take, 65536 without",
        ),
        part("video/model@vram64,ram,vgamem,heads", Number),
        part("video/model@primary", YesNo),
        part("video/model@blob,edid", OnOff),
        part("video/model/acceleration", Empty),
        part("video/model/acceleration@accel2d,accel3d", YesNo),
        part("video/model/acceleration@rendernode", Text),
        part("video/model/resolution", Empty),
        honoured(
            "video/model/resolution@x,y",
            Number,
            "what the card proposes; 1280 by 800 without",
        ),
        part("video/driver", Empty),
        part("video/driver@name", OneOf(&["qemu", "vhostuser"])),
        part("video/driver@vgaconf", OneOf(&["io", "on", "off"])),
    ],
};

const NO_CARD: &str = "this card is not built; use type='virtio'";
const MAPPED: &str = "the guest gets a virtio card";

const INPUT: Group = Group {
    title: "Input devices",
    bases: &["devices"],
    rows: &[
        part("input", Empty).many(),
        honoured(
            "input@type",
            Words(&[
                word("mouse"),
                word("keyboard"),
                word("tablet"),
                kept_word(
                    "passthrough",
                    "input devices of the host are not passed through yet",
                ),
                kept_word(
                    "evdev",
                    "input devices of the host are not passed through yet",
                ),
            ]),
            "with a VNC display a virtio tablet and keyboard are added where there are none",
        ),
        honoured(
            "input@bus",
            Words(&[
                word("ps2"),
                warned_word("usb", "there is no USB; viewers reach virtio devices"),
                warned_word("xen", "this is no Xen host"),
                word("virtio"),
                kept_word("none", "input devices without a bus are not built yet"),
            ]),
            "ps2",
        ),
        part(
            "input@model",
            OneOf(&["virtio", "virtio-transitional", "virtio-non-transitional"]),
        ),
        part("input/driver", Empty),
        part("input/source", Empty),
        part("input/source@dev,evdev,grab,grabToggle,repeat", Text),
    ],
};

const SOUND: Group = Group {
    title: "Sound",
    bases: &["devices"],
    rows: &[
        warned("sound", Empty, "there is no sound").many(),
        part(
            "sound@model",
            OneOf(&[
                "sb16", "es1370", "pcspk", "ac97", "ich6", "ich7", "ich9", "usb", "virtio",
            ]),
        ),
        part("sound@multichannel", YesNo),
        part("sound@streams", Number),
        part("sound/codec", Empty).many(),
        part("sound/codec@type", OneOf(&["duplex", "micro", "output"])),
        part("sound/audio", Empty),
        part("sound/audio@id", Number),
        part("sound/driver", Empty),
        part("audio", Empty).many(),
        honoured(
            "audio@type",
            Words(&[
                word("none"),
                warned_word("alsa", NO_SOUND),
                warned_word("coreaudio", NO_SOUND),
                warned_word("dbus", NO_SOUND),
                warned_word("file", NO_SOUND),
                warned_word("jack", NO_SOUND),
                warned_word("oss", NO_SOUND),
                warned_word("pipewire", NO_SOUND),
                warned_word("pulseaudio", NO_SOUND),
                warned_word("sdl", NO_SOUND),
                warned_word("spice", NO_SOUND),
                warned_word("sndio", NO_SOUND),
            ]),
            "none",
        ),
        part("audio@id,timerPeriod,dspPolicy", Number),
        part("audio@path,serverName,runtimeDir,driver,dev", Text),
        part("audio@tryMMap,exclusive", YesNo),
        part("audio/input,output", Empty),
        part("audio/input@mixingEngine,fixedSettings,tryPoll", YesNo),
        part(
            "audio/input@voices,bufferLength,bufferCount,latency",
            Number,
        ),
        part(
            "audio/input@dev,name,serverName,clientName,connectPorts,exactName,streamName",
            Text,
        ),
        part("audio/input/settings", Empty),
        part("audio/input/settings@frequency,channels", Number),
        part("audio/input/settings@format", Text),
        part("audio/output@mixingEngine,fixedSettings,tryPoll", YesNo),
        part(
            "audio/output@voices,bufferLength,bufferCount,latency",
            Number,
        ),
        part(
            "audio/output@dev,name,serverName,clientName,connectPorts,exactName,streamName",
            Text,
        ),
        part("audio/output/settings", Empty),
        part("audio/output/settings@frequency,channels", Number),
        part("audio/output/settings@format", Text),
    ],
};

const NO_SOUND: &str = "there is no sound";
