//! A folder that means harm.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::{Folder, problem, set};
use crate::store_contract::{Ear, policy, policy_key, short};

#[tokio::test]
async fn whatever_lies_in_the_folder_the_good_is_read_and_the_bad_is_named() {
    let folder = Folder::make();
    let at = |name: &str| folder.path().join(name);
    folder.write("good.yaml", policy("good", 1).to_string());
    folder.write("binary.yaml", [0x7f, b'E', b'L', b'F', 0xff, 0, 1, 2]);
    folder.write("zeros.json", vec![0; 100_000]);
    folder.write("large.yaml", vec![b'#'; (16 << 20) + 1]);
    folder.write("folder.yaml/inner.yaml", policy("inner", 1).to_string());
    symlink("nowhere", at("dangling.yaml")).unwrap();
    symlink("b.yaml", at("a.yaml")).unwrap();
    symlink("a.yaml", at("b.yaml")).unwrap();
    symlink("/dev/zero", at("device.yaml")).unwrap();
    symlink(".", at("self")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe.yaml")).status().unwrap().success());
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
    }
    folder.write("bomb.yaml", bomb);
    folder.write("tower.yaml", "[".repeat(1 << 20));

    let (mut ear, start) = Ear::new(&folder.store()).await;
    let mut told = short(&start);
    told.retain(|t| t.starts_with("set"));
    assert_eq!(told, [set("good"), set("inner")]);
    for (file, message) in [
        ("binary.yaml", "it is not text in UTF-8 (byte 4)"),
        ("large.yaml", "it has more than 16 MiB"),
        ("dangling.yaml", "the link leads nowhere"),
        ("a.yaml", "symbolic links"),
        ("device.yaml", "it is not a regular file"),
        ("pipe.yaml", "it is not a regular file"),
        ("bomb.yaml:5", "too large or too complex"),
        ("zeros.json:1", "not valid YAML"),
        ("tower.yaml:1", "not valid YAML"),
    ] {
        let told = problem(&start, &folder.place(file));
        assert!(told.contains(message), "{file}: {told}");
    }
    // All of it together stops nothing, and what is mended is told.
    folder.write("good.yaml", policy("good", 2).to_string());
    assert_eq!(short(&ear.until_key(&policy_key("good")).await), [set("good")]);
    folder.remove("dangling.yaml");
    folder.write("dangling.yaml", policy("mended", 1).to_string());
    let told = short(&ear.until_key(&policy_key("mended")).await);
    assert!(told.contains(&set("mended")), "{told:?}");
}

#[tokio::test]
async fn ten_megabytes_of_yaml_are_read_and_delay_nobody_for_long() {
    let folder = Folder::make();
    let filler =
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndata: {{a: {}}}\n", "x".repeat(100_000));
    folder.write("large.yaml", format!("{}---\n{}\n", filler.repeat(100), policy("last", 1)));
    let (_ear, start) = Ear::new(&folder.store()).await;
    assert_eq!(short(&start), [set("last"), "synced".into()]);
}

#[tokio::test]
async fn circles_of_folders_are_walked_once() {
    let folder = Folder::make();
    folder.write("a/b/p.yaml", policy("a", 1).to_string());
    for link in ["a/b/up", "a/b/again", "a/over"] {
        symlink(folder.path(), folder.path().join(link)).unwrap();
    }
    let (mut ear, start) = Ear::new(&folder.store()).await;
    assert_eq!(short(&start), [set("a"), "synced".into()]);
    folder.write("a/b/again/q.yaml", policy("b", 1).to_string()); // that is, q.yaml in the folder itself
    assert_eq!(short(&ear.until_key(&policy_key("b")).await), [set("b")]);
}

#[tokio::test]
async fn folders_deeper_than_anybody_needs_are_named_and_not_read() {
    let folder = Folder::make();
    let deep = "d/".repeat(40);
    folder.write(&format!("{deep}p.yaml"), policy("deep", 1).to_string());
    folder.write("p.yaml", policy("good", 1).to_string());
    let (_ear, start) = Ear::new(&folder.store()).await;
    assert!(short(&start).contains(&set("good")) && !short(&start).contains(&set("deep")));
    let place = folder.place(deep[..2 * 33].trim_end_matches('/'));
    assert!(problem(&start, &place).contains("more than 32 folders deep"));
}
