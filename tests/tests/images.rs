//! Images by the Containerfiles: built by a real builder, from nothing that isn't here.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tunnel_tests::binaries::{binary, program};
use tunnel_tests::openssh::success;
use tunnel_tests::pages::repository;

/// For both machines; their programs start in what the images hold, as the images' user.
#[test]
fn containerfiles_make_images_for_both_machines() {
    for name in ["tunnel-cloud", "tunnel-edge"] {
        let dir = tempfile::tempdir().unwrap();
        for machine in MACHINES {
            let root = dir.path().join("context").join(machine);
            run(Command::new(images("root"))
                .arg(root)
                .arg(program_for(machine, name)));
        }
        for machine in MACHINES {
            let image = build(dir.path(), name, machine);
            assert_eq!(image["architecture"], machine);
            assert_eq!(image["os"], "linux");
            assert_eq!(image["config"]["User"], "65532:65532");
            assert_eq!(image["config"]["Entrypoint"][0], format!("/usr/bin/{name}"));
            assert_eq!(image["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
            starts(&unpacked(dir.path()), machine, name);
        }
    }
}

/// The archive that needs no builder has the same in it.
#[test]
fn the_archive_starts_too_and_is_the_same_each_time() {
    for machine in MACHINES {
        let dir = tempfile::tempdir().unwrap();
        let mut made = Vec::new();
        for file in ["image.tar", "again.tar"] {
            let file = dir.path().join(file);
            run(Command::new(images("archive"))
                .arg(&file)
                .arg("docker.io/library/tunnel-edge:0.1.0")
                .arg(program_for(machine, "tunnel-edge")));
            made.push(fs::read(file).unwrap());
        }
        assert!(made[0] == made[1], "it differs from run to run");
        assert_eq!(described(dir.path())["architecture"], machine);
        starts(&unpacked(dir.path()), machine, "tunnel-edge");
    }
}

/// This machine, and the other one.
const MACHINES: [&str; 2] = ["amd64", "arm64"];

/// A program of ours, as `deploy/build` has made it for a machine.
fn program_for(machine: &str, name: &str) -> PathBuf {
    if machine == MACHINES[0] {
        return binary(name);
    }
    let dir = std::env::var_os("TUNNEL_ARM64_DIR")
        .expect("TUNNEL_ARM64_DIR: where the programs for arm64 are (./test images builds them)");
    Path::new(&dir).join(name)
}

fn images(file: &str) -> PathBuf {
    repository("deploy/images").join(file)
}

/// Builds in `dir`, leaves `image.tar` there, and tells the image's configuration.
fn build(dir: &Path, name: &str, machine: &str) -> Value {
    let buildah = |line: &[&str]| {
        run(Command::new(program("buildah", "buildah"))
            .args([
                "--storage-driver",
                "vfs",
                "--root",
                "storage",
                "--runroot",
                "run",
            ])
            .args(line)
            .current_dir(dir))
    };
    let file = images(&format!("Containerfile.{name}"));
    let (file, platform) = (file.to_str().unwrap(), format!("linux/{machine}"));
    let flags = [
        "--isolation",
        "chroot",
        "--pull-never",
        "--platform",
        &platform,
    ];
    buildah(
        &[
            &["bud"],
            &flags[..],
            &["-t", "image", "-f", file, "context"],
        ]
        .concat(),
    );
    let _ = fs::remove_file(dir.join("image.tar"));
    buildah(&["push", "image", "oci-archive:image.tar:image"]);
    described(dir)
}

/// What the image in `image.tar` says of itself.
fn described(dir: &Path) -> Value {
    let blobs = blobs(dir);
    let index = json(&fs::read(dir.join("oci/index.json")).unwrap());
    let manifest = json(&fs::read(blob(&blobs, &index["manifests"][0])).unwrap());
    json(&fs::read(blob(&blobs, &manifest["config"])).unwrap())
}

/// The files of the image in `image.tar`.
fn unpacked(dir: &Path) -> PathBuf {
    let blobs = blobs(dir);
    let root = dir.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir(&root).unwrap();
    let index = json(&fs::read(dir.join("oci/index.json")).unwrap());
    let manifest = json(&fs::read(blob(&blobs, &index["manifests"][0])).unwrap());
    for layer in manifest["layers"].as_array().unwrap() {
        run(Command::new("tar")
            .arg("-xf")
            .arg(blob(&blobs, layer))
            .arg("-C")
            .arg(&root));
    }
    root
}

fn blobs(dir: &Path) -> PathBuf {
    let oci = dir.join("oci");
    let _ = fs::remove_dir_all(&oci);
    fs::create_dir(&oci).unwrap();
    run(Command::new("tar")
        .arg("-xf")
        .arg(dir.join("image.tar"))
        .arg("-C")
        .arg(&oci));
    oci.join("blobs/sha256")
}

fn blob(blobs: &Path, described: &Value) -> PathBuf {
    let digest = described["digest"].as_str().unwrap();
    blobs.join(digest.strip_prefix("sha256:").unwrap())
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// As user 65532, with nothing of this machine in reach; an emulator stands in for the other one.
fn starts(root: &Path, machine: &str, name: &str) {
    let mut command = Command::new(program("chroot", "coreutils"));
    command.args(["--userspec=65532:65532"]).arg(root);
    if machine != MACHINES[0] {
        let emulator = program("qemu-aarch64-static", "qemu-user-static");
        fs::copy(emulator, root.join("emulator")).unwrap();
        command.arg("/emulator");
    }
    command
        .arg(format!("/usr/bin/{name}"))
        .arg("--version")
        .env_clear();
    let said = run(&mut command);
    assert!(said.starts_with(&format!("{name} 0.1.0")), "{said}");
}

#[track_caller]
fn run(command: &mut Command) -> String {
    // Its own group: a builder that is cut off leaves nobody behind.
    let output = command.process_group(0).output().unwrap();
    success(&format!("{command:?}"), &output);
    String::from_utf8(output.stdout).unwrap()
}
