use std::sync::{Arc, Condvar, Mutex};

use super::*;

fn question(cluster: &str, name: &str) -> LookupQuestion {
    LookupQuestion { cluster: cluster.parse().unwrap(), name: name.parse().unwrap() }
}

#[tokio::test]
async fn a_peer_whose_names_are_not_answered_holds_up_no_others() {
    let (ask, questions) = mpsc::channel(8);
    let (answers, mut told) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let released = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = released.clone();
    let look_up = move |name: &Host| {
        if name.as_str() == "slow.example" {
            let open = gate.0.lock().unwrap();
            drop(gate.1.wait_while(open, |open| !*open).unwrap());
        }
        Ok(vec!["192.0.2.1".parse().unwrap()])
    };
    let serving = tokio::spawn(serve_lookups(questions, answers, look_up, stop.clone()));
    for name in ["slow.example", "behind.example"] {
        ask.send(question("hostile", name)).await.unwrap();
    }
    ask.send(question("honest", "gw.example")).await.unwrap();
    assert_eq!(told.recv().await.unwrap().cluster.as_str(), "honest");
    *released.0.lock().unwrap() = true;
    released.1.notify_all();
    assert_eq!(told.recv().await.unwrap().name.as_str(), "slow.example");
    assert_eq!(told.recv().await.unwrap().name.as_str(), "behind.example");
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_name_with_more_addresses_than_can_be_judged_has_none() {
    let many = |_: &Host| Ok((0..=MAX_ADDRESSES as u32).map(|i| IpAddr::V4(i.into())).collect());
    let answer = look_up_one(question("donor", "gw.example"), many).await;
    assert!(answer.answer.unwrap_err().contains("more than 64"));
    let nobody = |_: &Host| Err(io::Error::other("no such name"));
    assert_eq!(look_up_one(question("donor", "gw.example"), nobody).await.answer, Err("no such name".to_owned()));
}
