//! What `deploy/` promises without a cluster: the image's recipe, the chart's schema, copies that are equal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    let path = Path::new(ROOT).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What the first stage of the Dockerfile copies from the repository.
fn copied() -> BTreeSet<String> {
    let file = read("deploy/Dockerfile");
    let copies = file.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|copy| !copy.starts_with("--from"));
    copies
        .flat_map(|copy| {
            let words: Vec<&str> = copy.split_whitespace().collect();
            words[..words.len() - 1].iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_image_is_built_from_files_that_are_there() {
    let copied = copied();
    for path in &copied {
        assert!(Path::new(ROOT).join(path).exists(), "deploy/Dockerfile copies {path}, which is not there");
    }
    let ignore = read("deploy/Dockerfile.dockerignore");
    let let_in: BTreeSet<String> = ignore.lines().filter_map(|l| l.strip_prefix('!')).map(str::to_owned).collect();
    assert_eq!(copied, let_in, "what the Dockerfile copies is what its dockerignore lets in");
}

#[test]
fn the_image_is_built_from_all_that_the_code_includes() {
    let copied = copied();
    let inside = |path: &Path| copied.iter().any(|c| path.starts_with(Path::new(ROOT).join(c)));
    let mut pending = vec![PathBuf::from(ROOT).join("src")];
    let mut included = 0;
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for rest in text.split("include_str!(\"").skip(1) {
            let file = path.parent().unwrap().join(rest.split('"').next().unwrap()).canonicalize().unwrap();
            assert!(
                inside(&file),
                "{} includes {}, which deploy/Dockerfile does not copy",
                path.display(),
                file.display()
            );
            included += 1;
        }
    }
    assert!(included > 0, "the demonstration includes its examples");
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("[[bench]]") && copied.contains("benches"), "cargo looks for what Cargo.toml names");
}

#[test]
fn the_image_holds_the_binary_alone_and_runs_it_as_nobody() {
    let file = read("deploy/Dockerfile");
    let last = file.split("FROM scratch\n").nth(1).expect("the last stage begins with nothing");
    let lines: Vec<&str> = last.lines().collect();
    assert_eq!(lines, ["COPY --from=build /wharf /wharf", "USER 65532:65532", "ENTRYPOINT [\"/wharf\"]"]);
    let manifest = read("Cargo.toml");
    let newest = manifest.lines().find_map(|l| l.strip_prefix("newest-tested = ")).unwrap().trim_matches('"');
    assert!(file.contains(&format!("FROM rust:{newest}-")), "the compiler is the newest that was tested, {newest}");
}

#[test]
fn the_chart_is_of_the_crates_version() {
    let chart = yaml("deploy/chart/Chart.yaml");
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "deploy/chart/Chart.yaml: {key}");
    }
    let overlay = read("deploy/kustomize/overlays/example/kustomization.yaml");
    assert!(overlay.contains(&format!("newTag: {}}}", env!("CARGO_PKG_VERSION"))), "the example overlay's image");
}

#[test]
fn the_charts_definitions_are_those_in_deploy() {
    let equal = read("deploy/chart/crds/wharf.yaml") == read("deploy/crds/wharf.yaml");
    assert!(equal, "deploy/chart/crds/wharf.yaml is stale: deploy/render");
}

/// Every value that the schema allows has its description, and objects allow nothing else.
fn check_schema(place: &str, schema: &Value) {
    if let Some(properties) = schema["properties"].as_object() {
        assert_eq!(schema["additionalProperties"], false, "{place} allows keys that nobody described");
        for (name, property) in properties {
            let place = format!("{place}.{name}");
            assert!(property["description"].as_str().is_some_and(|d| d.ends_with('.')), "{place} has no description");
            check_schema(&place, property);
        }
    }
    check_schema_of(place, &schema["items"]);
}

fn check_schema_of(place: &str, items: &Value) {
    if items.is_object() {
        check_schema(&format!("{place}[]"), items);
    }
}

/// Where a `$ref` leads, else the schema itself.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: no such definition")),
        None => schema,
    }
}

fn check_values(root: &Value, place: &str, schema: &Value, values: &Value) {
    let schema = resolve(root, schema);
    let (Some(properties), Some(values)) = (schema["properties"].as_object(), values.as_object()) else { return };
    for (key, value) in values {
        let property = properties.get(key).unwrap_or_else(|| panic!("values.yaml: {place}{key} is not in the schema"));
        check_values(root, &format!("{place}{key}."), property, value);
    }
}

#[test]
fn every_value_of_the_chart_is_described_and_every_described_value_is_shown() {
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let values = yaml("deploy/chart/values.yaml");
    check_schema("values", &schema);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        check_schema(name, definition);
    }
    check_values(&schema, "", &schema, &values);
    for key in schema["properties"].as_object().unwrap().keys().filter(|k| !["global", "enabled"].contains(&k.as_str()))
    {
        assert!(values.get(key).is_some(), "values.yaml does not show {key}");
    }
}

#[test]
fn the_plugins_manifest_names_each_archive_with_its_hash() {
    let dist = tempfile::tempdir().unwrap();
    for (arch, content) in [("x86_64", "one"), ("aarch64", "another")] {
        let archive = format!("kubectl-wharf-{}-linux-{arch}.tar.gz", env!("CARGO_PKG_VERSION"));
        std::fs::write(dist.path().join(archive), content).unwrap();
    }
    let krew = |repository: &str| {
        std::process::Command::new(Path::new(ROOT).join("deploy/krew"))
            .arg(dist.path())
            .arg(repository)
            .output()
            .unwrap()
    };
    let printed = krew("https://example.org/wharf");
    assert!(printed.status.success(), "{printed:?}");
    let manifest: Value = serde_saphyr::from_slice(&printed.stdout).unwrap();
    assert_eq!(manifest["spec"]["version"], format!("v{}", env!("CARGO_PKG_VERSION")));
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    let told: Vec<_> = platforms.iter().map(|p| (&p["selector"]["matchLabels"]["arch"], &p["sha256"])).collect();
    let hash = |text: &str| {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(text);
        Value::from(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    assert_eq!(told, [(&Value::from("amd64"), &hash("one")), (&Value::from("arm64"), &hash("another"))]);
    assert_eq!(krew("no address").status.code(), Some(2));
}
