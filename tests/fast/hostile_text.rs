//! Text that somebody else chose, on its way to a terminal: nothing of it moves a cursor, turns a line around or begins
//! a row of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Colours, a title, a new line, a row, and characters that are not seen.
const HOSTILE: &str =
    "\u{1b}[31mRED\u{1b}]0;title\u{7}\nerror: forged   row   here\r\u{9b}2J\u{202e}gnp\u{200b}\u{2028}\u{feff}\u{ad}";

fn wharf(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HOME"] {
        command.env_remove(name);
    }
    command.current_dir(dir).args(args).output().unwrap()
}

/// The lines of an output; each of its characters is one that a reader sees.
fn visible_lines(bytes: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(bytes).unwrap();
    let invisible = |c: &char| c.is_control() || "\u{202e}\u{200b}\u{2028}\u{feff}\u{ad}".contains(*c);
    let found: Vec<_> = text.chars().filter(|c| *c != '\n').filter(invisible).collect();
    assert_eq!(found, [], "{text:?}");
    text.lines().map(str::to_owned).collect()
}

/// An agent's admin listener that answers one question.
fn admin_that_says(view: &Value) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = view.to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        let _ = stream.read(&mut request); // until whoever asked hangs up
    });
    address
}

fn view() -> Value {
    let condition = json!({"type": "Programmed", "status": "False", "reason": HOSTILE, "message": HOSTILE});
    let exposed = json!({
        "name": HOSTILE, "host": HOSTILE, "reason": HOSTILE, "message": HOSTILE,
        "offeredTo": [HOSTILE], "boundBy": [HOSTILE], "rejectedBy": [format!("cluster2: No: {HOSTILE}")],
    });
    let service = json!({
        "cluster": HOSTILE, "exposition": HOSTILE, "localHost": HOSTILE, "version": HOSTILE, "bound": false,
        "reason": HOSTILE, "message": HOSTILE,
    });
    json!({
        "cluster": "c", "identity": "i", "instance": "x", "version": "0", "certificateExpires": "", "synced": true,
        "problems": [{"place": HOSTILE, "message": HOSTILE}],
        "policies": [{"namespace": HOSTILE, "name": HOSTILE, "status": {"conditions": [condition], "exposed": [exposed]}}],
        "bindings": [{"namespace": HOSTILE, "name": HOSTILE, "connection": "live",
                      "status": {"conditions": [condition], "services": [service]}}],
        "peers": [{"name": HOSTILE, "endpoint": HOSTILE, "consume": true, "identity": HOSTILE,
                   "status": {"conditions": [condition]}}],
        "offers": [{"cluster": HOSTILE, "namespace": HOSTILE, "name": HOSTILE, "version": HOSTILE, "bound_by": [HOSTILE],
                    "rejected": HOSTILE}],
    })
}

fn shown(command: &str, output: &str) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let admin = admin_that_says(&view()).to_string();
    let told = wharf(dir.path(), &[command, "--admin", &admin, "-o", output]);
    let unready = i32::from(command == "status"); // which has a problem
    assert_eq!(told.status.code(), Some(unready), "{told:?}");
    visible_lines(&told.stdout)
}

#[test]
fn a_row_of_a_table_is_one_line_whatever_is_in_it() {
    for (command, tables) in [("status", 2), ("offers", 1), ("peers", 1)] {
        for output in ["table", "wide"] {
            let lines = shown(command, output);
            // One problem; heads and a row for each table, and a blank line between.
            assert_eq!(lines.len(), 1 + tables * 2 + (tables - 1), "{lines:#?}");
            assert!(lines.iter().all(|line| !line.starts_with("error: forged")), "{lines:#?}");
            let rows = lines.iter().filter(|line| !line.starts_with("problem: "));
            assert!(!rows.into_iter().any(|line| line.contains("forged   row")), "{lines:#?}");
        }
    }
    assert_eq!(shown("status", "name").len(), 2);
    assert_eq!(shown("offers", "name").len(), 1);
}

#[test]
fn a_document_has_the_text_as_it_is_and_no_character_that_a_terminal_obeys() {
    for output in ["json", "yaml"] {
        let text = shown("offers", output).join("\n");
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read[0]["rejected"], HOSTILE, "{text}");
    }
}

#[test]
fn every_problem_that_translate_tells_is_a_line_of_its_own() {
    let dir = TempDir::new().unwrap();
    let file = "a\u{1b}[2J\nerror: forged\u{202e}.yaml";
    let policy = json!({
        "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"exposed": [
            {"name": "a", "port": 80, "subset": HOSTILE}, {"name": "b", "port": 80, "virtualService": HOSTILE},
            {"name": HOSTILE}, {"name": "c", "alias": HOSTILE}, {"name": "d", "clusters": [HOSTILE]},
        ]},
    });
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
               "spec": {"ports": [{"port": 80, "name": HOSTILE}], "selector": {"app": "a"}}})
    };
    let documents =
        [policy, service("a"), service("b"), json!({HOSTILE: 1}), json!({"apiVersion": "v1", "kind": HOSTILE})];
    let text: Vec<_> = documents.iter().map(Value::to_string).collect();
    fs::write(dir.path().join(file), text.join("\n---\n")).unwrap();
    let told = wharf(dir.path(), &["translate", "-f", file]);
    let lines = visible_lines(&told.stderr);
    assert!(lines.len() >= 4, "{lines:#?}");
    for line in &lines {
        let own =
            line.starts_with("error: a\\u{1b}[2J\\n") || line.starts_with("note: a\\u{1b}") || line.starts_with("  ");
        assert!(own, "{line}");
    }
    let missing = wharf(dir.path(), &["translate", "-f", &format!("no{file}")]);
    assert_eq!(visible_lines(&missing.stderr).len(), 1, "{missing:?}");
}

#[test]
fn every_finding_of_a_check_is_a_row() {
    let dir = TempDir::new().unwrap();
    let file = format!("{HOSTILE}.yaml");
    fs::write(dir.path().join(&file), format!("{}: 1\n", json!(HOSTILE))).unwrap();
    let told = wharf(dir.path(), &["check", "--config", &file]);
    let lines = visible_lines(&told.stdout);
    // The finding, what to do, a blank line and the sum.
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let agent = wharf(dir.path(), &["agent", "--config", &file]);
    assert_eq!(visible_lines(&agent.stderr).len(), 1, "{agent:?}");
}

#[test]
fn an_argument_that_a_file_name_became_is_told_as_it_is_written() {
    let dir = TempDir::new().unwrap();
    for args in [["status", "--\u{1b}[31m\u{202e}"], ["\u{9b}2J", "-"]] {
        let refused = wharf(dir.path(), &args);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        visible_lines(&refused.stderr);
    }
}
