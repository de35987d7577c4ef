use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;
use std::thread;

use runtime_shared::Runtime;

use super::*;
use crate::runtime::Smol;

fn pair() -> (Watched<UnixStream>, UnixStream) {
    let (near, far) = UnixStream::pair().expect("a pair");
    near.set_nonblocking(true).expect("an option");
    (Watched::new(near).expect("watched"), far)
}

async fn read(socket: &Watched<UnixStream>) -> io::Result<usize> {
    let mut room = [0; 16];
    poll_fn(|cx| socket.poll_read(cx, |mut socket| socket.read(&mut room))).await
}

#[test]
fn bytes_and_ends_wake_who_waits() {
    let (near, mut far) = pair();
    let writer = thread::spawn(move || {
        far.write_all(b"three").expect("there is room");
        far
    });
    let bytes = block_on(async { read(&near).await.expect("bytes") }).expect("a reactor");
    assert_eq!(bytes, 5);
    let far = writer.join().expect("it ends");
    let ends = thread::spawn(move || drop(far));
    let end = block_on(async { read(&near).await.expect("an end") }).expect("a reactor");
    assert_eq!(end, 0);
    ends.join().expect("it ends");
}

#[test]
fn room_wakes_who_waits_to_write() {
    let (near, mut far) = pair();
    let reader = thread::spawn(move || {
        let mut room = vec![0; 1 << 22];
        far.read_exact(&mut room).expect("bytes");
    });
    block_on(async {
        let mut left = 1 << 22;
        while left > 0 {
            let piece = vec![0; left.min(1 << 16)];
            left -= poll_fn(|cx| near.poll_write(cx, |mut socket| socket.write(&piece)))
                .await
                .expect("room");
        }
    })
    .expect("a reactor");
    reader.join().expect("all arrived");
}

#[test]
fn alarms_ring_in_their_order_and_not_when_reset() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let rung = block_on(async {
        let (mut late, mut early, mut moved) =
            (Alarm::new(at(40)), Alarm::new(at(20)), Alarm::new(at(1)));
        moved.reset(at(60));
        let mut rung = Vec::new();
        let mut open = [true; 3];
        poll_fn(|cx| {
            for (index, alarm) in [&mut late, &mut early, &mut moved].into_iter().enumerate() {
                if open[index] && alarm.poll(cx).is_ready() {
                    open[index] = false;
                    rung.push(index);
                }
            }
            match open.contains(&true) {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
        rung
    })
    .expect("a reactor");
    assert!(start.elapsed() >= Duration::from_millis(60));
    if start.elapsed() < Duration::from_millis(80) {
        assert_eq!(rung, [1, 0, 2]);
    }
    REACTOR.with(|reactor| assert!(reactor.times.borrow().is_empty()));
}

#[test]
fn another_thread_wakes_it() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let teller = thread::spawn(move || tell.send(7));
    assert_eq!(block_on(told).expect("a reactor"), Ok(7));
    assert_eq!(teller.join().expect("it ends"), Ok(()));
}

#[test]
fn a_task_that_is_always_ready_leaves_others_their_turn() {
    let (near, mut far) = pair();
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let busy = Smol::spawn(poll_fn(move |cx| {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            far.write_all(b"key").expect("there is room");
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    let bytes = crate::block_on(read(&near)).expect("a reactor");
    assert_eq!(bytes.expect("bytes"), 3);
    let turns = turns.load(Ordering::SeqCst);
    assert_eq!(turns, 1, "turns of another until it was heard");
    drop(busy);
}

#[test]
fn who_waits_beside_tasks_is_asked_only_when_called() {
    const TURNS: usize = 100;
    let (done, mut wait) = tokio::sync::oneshot::channel();
    let (mut turns, mut done) = (0, Some(done));
    let busy = Smol::spawn(poll_fn(move |cx| {
        turns += 1;
        if turns == TURNS {
            let _ = done.take().expect("once").send(());
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    let mut asked = 0;
    let over = crate::block_on(poll_fn(|cx| {
        asked += 1;
        std::pin::Pin::new(&mut wait).poll(cx)
    }));
    assert_eq!(over.expect("a reactor"), Ok(()));
    assert_eq!(asked, 2, "at first, and at the end");
    drop(busy);
}

#[test]
fn what_was_refused_is_not_asked_again_before_the_kernel_says_more() {
    let (near, mut far) = pair();
    let mut asked = 0;
    let bytes = crate::block_on(async {
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            let read = near.poll_read(cx, |mut socket| {
                asked += 1;
                socket.read(&mut [0; 16])
            });
            // Woken for another reason, it asks for nothing.
            match turns {
                5 => far.write_all(b"now").expect("there is room"),
                _ if turns < 5 => cx.waker().wake_by_ref(),
                _ => {}
            }
            read
        })
        .await
    });
    assert_eq!(bytes.expect("a reactor").expect("bytes"), 3);
    assert_eq!(asked, 2, "once in vain, once when told");
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_not_missed() {
    let (near, mut far) = pair();
    let ends = crate::block_on(async {
        far.write_all(b"last").expect("there is room");
        drop(far);
        // The kernel tells of both at once.
        poll_fn(|cx| {
            let first = near.watch(|watch| {
                let ended = watch.read.ended;
                watch.read.wait(cx);
                ended
            });
            match first {
                Some(true) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
        assert_eq!(read(&near).await.expect("bytes"), 4);
        near.drained();
        read(&near).await.expect("an end")
    });
    assert_eq!(ends.expect("a reactor"), 0);
}
