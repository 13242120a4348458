//! Jobs on an image that is in use: random writers with a model of the disk go on while layers
//! come, go and are copied; then both engines read what the model says.
mod common;

use std::cell::Cell;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;

use common::disk::{SIZE, all, chain, create, target};
use common::*;
use images::jobs::{
    self, BackupOptions, Control, MirrorOptions, Outcome, Phase, StreamOptions, Target,
};
use images::ops::{self, Backing, CreateOptions, Repair, bitmap, snapshot};
use images::{Format, IoBuf, PathGate};

#[test]
fn an_overlay_comes_under_running_writers() {
    for cluster in [4096, 65536] {
        let disk = chain(cluster, 1);
        create(
            &disk.at("new.qcow2"),
            cluster,
            Some(("top.qcow2", Format::Qcow2)),
        );
        let snapshot = disk.among(1, async |image| {
            let t = target(&disk.at("new.qcow2"), Format::Qcow2);
            jobs::overlay(image, t).await.unwrap();
            std::fs::read(disk.at("top.qcow2")).unwrap()
        });
        assert_eq!(disk.image.layer_names().len(), 4);
        disk.close("new.qcow2", "qcow2");
        let now = std::fs::read(disk.at("top.qcow2")).unwrap();
        assert!(now == snapshot, "the old top does not change any more");
        // It may go on after it was inactive, and the old top is not written.
        disk.ex.block_on(disk.image.activate()).unwrap();
        disk.among(2, async |_| {});
        disk.close("new.qcow2", "qcow2");
        assert!(std::fs::read(disk.at("top.qcow2")).unwrap() == snapshot);
    }
}

#[test]
fn an_overlay_that_does_not_fit_is_refused() {
    let disk = chain(65536, 2);
    create(&disk.at("bare.qcow2"), 65536, None);
    disk.among(1, async |image| {
        let t = target(&disk.at("bare.qcow2"), Format::Qcow2);
        assert!(jobs::overlay(image, t).await.is_err());
        let t = target(&disk.at("mid.qcow2"), Format::Qcow2);
        assert!(jobs::overlay(image, t).await.is_err());
    });
    assert_eq!(disk.image.layer_names().len(), 3);
    disk.close("top.qcow2", "qcow2");
}

#[test]
fn a_mirror_is_the_disk_when_it_is_ready_and_takes_over() {
    for (n, (format, how)) in [
        (Format::Qcow2, MirrorOptions::Full),
        (Format::Raw, MirrorOptions::Full),
        (Format::Qcow2, MirrorOptions::Top),
    ]
    .into_iter()
    .enumerate()
    {
        for pivot in [true, false] {
            let disk = chain(65536, 10 + n as u64);
            match (format, how) {
                (Format::Raw, _) => {
                    let f = File::create(disk.at("copy")).unwrap();
                    f.set_len(SIZE).unwrap();
                }
                (_, MirrorOptions::Full) => create(&disk.at("copy"), 4096, None),
                _ => create(&disk.at("copy"), 4096, Some(("mid.qcow2", Format::Qcow2))),
            }
            let control = Rc::new(Control::new());
            let steering = control.clone();
            disk.ex.spawn(async move {
                while steering.phase() != Phase::Ready {
                    images::exec::yield_now().await;
                }
                if pivot {
                    steering.complete();
                } else {
                    steering.cancel();
                }
            });
            let copy = disk.at("copy");
            disk.among(3 + n as u64, async |image| {
                let t = target(&copy, format);
                let gate = PathGate::new();
                let done = jobs::mirror(image, t, &gate, how, &control).await;
                assert_eq!(
                    done.unwrap(),
                    if pivot {
                        Outcome::Done
                    } else {
                        Outcome::Cancelled
                    }
                );
            });
            assert_eq!(control.phase(), Phase::Ended);
            if pivot {
                assert!(disk.image.layer_names()[0].ends_with("copy"));
                disk.close("copy", format.name());
            } else {
                assert_eq!(disk.image.layer_names().len(), 3);
                disk.close("top.qcow2", "qcow2");
            }
        }
    }
}

#[test]
fn a_commit_moves_everything_into_the_base() {
    for (n, (depth, base, format)) in [
        (1, "mid.qcow2", Format::Qcow2),
        (2, "base.raw", Format::Raw),
    ]
    .into_iter()
    .enumerate()
    {
        let disk = chain(if n == 0 { 4096 } else { 65536 }, 20 + n as u64);
        let control = Control::new();
        control.complete();
        disk.among(5, async |image| {
            let t = target(&disk.at(base), format);
            let done = jobs::commit(image, depth, t, &control).await;
            assert_eq!(done.unwrap(), Outcome::Done);
        });
        assert_eq!(disk.image.layer_names().len(), 3 - depth);
        disk.close(base, format.name());
    }
}

#[test]
fn a_commit_that_is_cancelled_leaves_the_disk_as_it_is() {
    let disk = chain(65536, 30);
    let control = Rc::new(Control::new());
    let steering = control.clone();
    disk.ex.spawn(async move {
        while steering.progress().0 < SIZE / 3 {
            images::exec::yield_now().await;
        }
        steering.cancel();
    });
    disk.among(6, async |image| {
        let t = target(&disk.at("mid.qcow2"), Format::Qcow2);
        let done = jobs::commit(image, 1, t, &control).await;
        assert_eq!(done.unwrap(), Outcome::Cancelled);
        // Another file than the layer's, and a layer that is not there.
        let t = target(&disk.at("base.raw"), Format::Qcow2);
        assert!(jobs::commit(image, 1, t, &Control::new()).await.is_err());
        let t = target(&disk.at("base.raw"), Format::Raw);
        assert!(jobs::commit(image, 7, t, &Control::new()).await.is_err());
    });
    assert_eq!(disk.image.layer_names().len(), 3);
    disk.close("top.qcow2", "qcow2");
    let f = File::options()
        .read(true)
        .write(true)
        .open(disk.at("mid.qcow2"))
        .unwrap();
    let report = disk.ex.block_on(ops::check(f, "mid", Repair::No)).unwrap();
    assert!(report.is_clean(), "{:?}", report.messages);
}

#[test]
fn streaming_takes_layers_out_of_the_chain() {
    for (n, based) in [false, true].into_iter().enumerate() {
        for cluster in [512, 65536] {
            let disk = chain(cluster, 40 + n as u64);
            let base = based.then(|| {
                let (name, format) = ("base.raw".to_owned(), Format::Raw);
                (2, Backing { name, format })
            });
            let options = StreamOptions { base };
            disk.among(7, async |image| {
                let done = jobs::stream(image, &options, &Control::new()).await;
                assert_eq!(done.unwrap(), Outcome::Done);
            });
            assert_eq!(disk.image.layer_names().len(), if based { 2 } else { 1 });
            // The layers are really not needed any more.
            std::fs::remove_file(disk.at("mid.qcow2")).unwrap();
            if !based {
                std::fs::remove_file(disk.at("base.raw")).unwrap();
            }
            disk.close("top.qcow2", "qcow2");
        }
    }
}

#[test]
fn backups_are_the_disk_at_one_moment_and_increments_add_up() {
    let disk = chain(65536, 50);
    let name = "since".to_owned();
    disk.ex
        .block_on(bitmap::add(&disk.image, &name, Some(4096), true))
        .unwrap();
    create(&disk.at("full"), 65536, None);
    let open_target = |file: &str| {
        let image = open_with(&disk.at(file), &qcow2(), &PathGate::new()).unwrap();
        let image = Arc::new(image);
        disk.ex.block_on(image.activate()).unwrap();
        image
    };
    let mut file = "full".to_owned();
    for n in 0..3u32 {
        let to = open_target(&file);
        let options = BackupOptions {
            bitmap: Some(name.clone()),
            incremental: n > 0,
        };
        disk.among(60 + u64::from(n), async |image| {
            // One that is cancelled takes nothing from the bitmap.
            let cancelled = Control::new();
            cancelled.cancel();
            let done = jobs::backup(image, &to, &options, &cancelled).await;
            assert_eq!(done.unwrap(), Outcome::Cancelled);
            let done = jobs::backup(image, &to, &options, &Control::new()).await;
            assert_eq!(done.unwrap(), Outcome::Done);
        });
        disk.ex.block_on(to.inactivate()).unwrap();
        let next = format!("inc{n}");
        create(&disk.at(&next), 65536, Some((&file, Format::Qcow2)));
        file = next;
    }
    // Nobody writes now: the last increment makes the backup the disk.
    let to = open_target(&file);
    let options = BackupOptions {
        bitmap: Some(name.clone()),
        incremental: true,
    };
    let control = Control::new();
    let job = jobs::backup(&disk.image, &to, &options, &control);
    assert_eq!(disk.ex.block_on(job).unwrap(), Outcome::Done);
    disk.ex.block_on(to.inactivate()).unwrap();
    let left = disk.ex.block_on(bitmap::dirty(&disk.image, &name)).unwrap();
    assert!(left.is_empty());
    disk.file_is(&file, "qcow2", "the backup");
    disk.close("top.qcow2", "qcow2");
}

#[test]
fn a_backup_has_no_write_that_began_later() {
    // Version stamps: a backup has, of every sector, a version of one moment. Writers write the
    // clock into all sectors of a stripe; a moment has no sector that is newer than it and none
    // that was overwritten before it.
    let disk = chain(65536, 70);
    create(&disk.at("full"), 65536, None);
    let to = Arc::new(open_with(&disk.at("full"), &qcow2(), &PathGate::new()).unwrap());
    disk.ex.block_on(to.activate()).unwrap();
    let control = Rc::new(Control::new());
    control.set_speed(16 << 20);
    let ended = Rc::new(Cell::new(false));
    let before = disk.ex.block_on(all(&disk.image));
    let job = {
        let (image, to, control, ended) = (
            disk.image.clone(),
            to.clone(),
            control.clone(),
            ended.clone(),
        );
        async move {
            let options = BackupOptions::default();
            let done = jobs::backup(&image, &to, &options, &control).await;
            assert_eq!(done.unwrap(), Outcome::Done);
            ended.set(true);
        }
    };
    disk.ex.spawn(job);
    disk.ex.block_on(async {
        // Once the total is known the moment has been.
        while control.progress().1 == 0 {
            images::exec::yield_now().await;
        }
        let mut r = Random::new(9);
        let mut writes = 0u32;
        while !ended.get() || writes < 50 {
            let at = r.below(SIZE / 4096 - 4) * 4096;
            let buf = IoBuf::from(&vec![0xee; 12_288][..]);
            disk.image.write_bytes(at, buf).await.unwrap();
            writes += 1;
        }
        let copy = all(&to).await;
        assert!(copy == before, "the backup is the disk as it was");
        to.inactivate().await.unwrap();
        disk.image.inactivate().await.unwrap();
    });
}

#[test]
fn an_internal_snapshot_is_deleted_and_the_disk_grows_under_writers() {
    for cluster in [512, 4096, 65536] {
        let disk = chain(cluster, 80);
        for name in ["a", "b"] {
            disk.among(8, async |image| {
                snapshot::take(image, name, std::time::Duration::ZERO)
                    .await
                    .unwrap();
            });
        }
        let kept = {
            let copy = disk.model.borrow().0.clone();
            disk.ex.block_on(async {
                snapshot::take(&disk.image, "kept", std::time::Duration::ZERO)
                    .await
                    .unwrap();
            });
            copy
        };
        disk.among(9, async |image| {
            let control = Control::new();
            let done = jobs::delete_snapshot(image, "a", &control).await;
            assert_eq!(done.unwrap(), Outcome::Done);
            let (done, total) = control.progress();
            assert!(done == total && total > 0, "{done} of {total}");
            jobs::delete_snapshot(image, "b", &Control::new())
                .await
                .unwrap();
            assert!(jobs::delete_snapshot(image, "b", &control).await.is_err());
            assert!(jobs::grow(image, SIZE / 2).await.is_err());
            jobs::grow(image, SIZE + (1 << 20)).await.unwrap();
            let mut model = disk.model.borrow_mut();
            model.0.resize((SIZE + (1 << 20)) as usize, 0);
            model.1.resize((SIZE + (1 << 20)) as usize, false);
        });
        disk.close("top.qcow2", "qcow2");
        disk.ex.block_on(async {
            disk.image.activate().await.unwrap();
            snapshot::apply(&disk.image, "kept").await.unwrap();
            assert!(
                all(&disk.image).await == kept,
                "{cluster}: the other snapshot"
            );
            disk.image.inactivate().await.unwrap();
        });
    }
}

#[test]
fn one_job_at_a_time_and_a_full_target_is_not_the_guests_trouble() {
    let disk = chain(65536, 90);
    create(&disk.at("copy"), 65536, None);
    let small = images::storage::MemoryStorage::new();
    let options = CreateOptions::new(Format::Qcow2, SIZE);
    ops::create::create_on(&small.clone().into(), &options).unwrap();
    small.set_limit(1 << 20);
    disk.among(11, async |image| {
        let full = Target {
            storage: small.clone().into(),
            name: "full".into(),
            format: Format::Qcow2,
        };
        let gate = PathGate::new();
        let failed = jobs::mirror(image, full, &gate, MirrorOptions::Full, &Control::new()).await;
        let kind = failed.unwrap_err();
        assert_eq!(kind.kind(), &images::ErrorKind::NoSpace, "{kind}");
    });
    let control = Rc::new(Control::new());
    control.set_speed(1 << 20);
    let ended = Rc::new(Cell::new(false));
    let job = {
        let (image, file) = (disk.image.clone(), disk.at("copy"));
        let (control, ended) = (control.clone(), ended.clone());
        async move {
            let t = target(&file, Format::Qcow2);
            let gate = PathGate::new();
            let done = jobs::mirror(&image, t, &gate, MirrorOptions::Full, &control).await;
            assert_eq!(done.unwrap(), Outcome::Cancelled);
            ended.set(true);
        }
    };
    disk.ex.spawn(job);
    disk.ex.block_on(async {
        while control.progress().1 == 0 {
            images::exec::yield_now().await;
        }
        let options = StreamOptions::default();
        let second = jobs::stream(&disk.image, &options, &Control::new()).await;
        assert!(second.is_err());
        assert!(jobs::grow(&disk.image, SIZE * 2).await.is_err());
        control.cancel();
        while !ended.get() {
            images::exec::yield_now().await;
        }
        jobs::grow(&disk.image, SIZE).await.unwrap();
    });
    disk.close("top.qcow2", "qcow2");
}

#[test]
fn writers_and_job_on_threads_of_their_own_agree() {
    let disk = chain(65536, 100);
    create(&disk.at("copy"), 65536, None);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let control = Control::new();
    let written = std::sync::atomic::AtomicU64::new(0);
    use std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        for t in 0..3u64 {
            let (image, stop, written) = (disk.image.clone(), &stop, &written);
            scope.spawn(move || {
                let ex = executor();
                let mut r = Random::new(t + 1);
                // Everybody writes everywhere: where they meet, both sides must agree on the order.
                while !stop.load(SeqCst) {
                    let at = r.below(SIZE / 4096 - 8) * 4096;
                    let buf = IoBuf::from(&vec![r.below(255) as u8; 20_480][..]);
                    ex.block_on(image.write_bytes(at, buf)).unwrap();
                    written.fetch_add(1, SeqCst);
                }
            });
        }
        let (image, control, file) = (disk.image.clone(), &control, disk.at("copy"));
        let job = scope.spawn(move || {
            let t = target(&file, Format::Qcow2);
            let gate = PathGate::new();
            let how = MirrorOptions::Full;
            executor().block_on(jobs::mirror(&image, t, &gate, how, control))
        });
        while control.phase() != Phase::Ready && !job.is_finished() {
            std::thread::yield_now();
        }
        let from = written.load(SeqCst);
        while written.load(SeqCst) < from + 50 {
            std::thread::yield_now();
        }
        stop.store(true, SeqCst);
        control.cancel();
        assert_eq!(job.join().unwrap().unwrap(), Outcome::Cancelled);
    });
    // Cancelled when it was ready: the copy is the disk, byte for byte.
    disk.ex.block_on(async {
        let now = all(&disk.image).await;
        disk.model.borrow_mut().settle(&now);
    });
    disk.file_is("copy", "qcow2", "the copy");
    disk.close("top.qcow2", "qcow2");
}
