use super::*;
use crate::budget::{Budget, Buffer};
use alloc::vec::Vec;

const ROUND_TRIP: Duration = Duration::from_millis(10);

fn receive(budget: &Budget) -> Receive {
    Receive::new(
        Charge::admit(budget, Buffer::Receive, EARLY_BYTES).expect("room"),
        &StreamConfig::default(),
        Instant::ZERO,
    )
}

fn bytes(count: usize) -> Bytes {
    Bytes::from(alloc::vec![1; count])
}

#[test]
fn a_senders_way_is_measured_only_when_it_waited_and_by_no_outage() {
    let millis = |millis| Instant::ZERO + Duration::from_millis(millis);
    // It has used up what it was promised; the next promise is made at once.
    let waiting = || {
        let mut receive = receive(&Budget::new(1 << 20));
        receive
            .content(0, bytes(4096), millis(0))
            .expect("promised");
        receive.written(4096, millis(0), None);
        receive
    };
    for (after, far) in [(50, 50), (60_000, 1_000)] {
        let mut receive = waiting();
        receive
            .content(4096, bytes(1), millis(after))
            .expect("promised");
        assert_eq!(
            receive.far,
            Some(Duration::from_millis(far)),
            "after {after} ms"
        );
    }
    let mut queued = waiting();
    for (until, after) in [(8192, 50), (12_288, 900)] {
        let from = queued.received();
        let at = queued.granted_at + Duration::from_millis(after);
        queued.limit = until; // All that it may, each time.
        let all = bytes(usize::try_from(until - from).expect("small"));
        queued.content(from, all, at).expect("promised");
        queued.written(4096, at, None);
    }
    assert_eq!(queued.far, Some(Duration::from_millis(50)), "the shortest");
    let mut lost = waiting();
    lost.promise_anew();
    lost.content(4096, bytes(1), millis(900)).expect("promised");
    assert_eq!(lost.far, None, "the link was away");
    let mut idle = receive(&Budget::new(1 << 20));
    idle.content(0, bytes(3000), millis(0)).expect("promised");
    idle.written(3000, millis(0), None);
    idle.content(3000, bytes(2000), millis(900))
        .expect("promised");
    assert_eq!(idle.far, None, "it had room left");
    let mut steady = receive(&Budget::new(1 << 20));
    for step in 0..100 {
        // Never all that it may, and every promise ends where a message does.
        let from = steady.received();
        steady
            .content(from, bytes(256), millis(10 * step))
            .expect("promised");
        steady.written(256, millis(10 * step), None);
    }
    assert_eq!(steady.far, None, "it was not held back");
    assert!(!steady.waited, "so nor does a window grow by it");
}

#[test]
fn of_a_partly_duplicate_range_the_new_part_counts() {
    let mut receive = receive(&Budget::new(1 << 20));
    receive
        .content(0, Bytes::from_static(b"abc"), Instant::ZERO)
        .expect("in order");
    receive
        .content(1, Bytes::from_static(b"bcde"), Instant::ZERO)
        .expect("overlap");
    receive
        .content(0, Bytes::from_static(b"ab"), Instant::ZERO)
        .expect("duplicate");
    let all: alloc::vec::Vec<u8> = receive.pending().flatten().copied().collect();
    assert_eq!((all.as_slice(), receive.ack()), (&b"abcde"[..], 5));
}

#[test]
fn a_flood_of_single_bytes_costs_what_it_weighs() {
    let mut receive = receive(&Budget::new(1 << 20));
    for offset in 0..4096 {
        receive
            .content(offset, Bytes::from_static(b"x"), Instant::ZERO)
            .expect("in order");
    }
    assert_eq!((receive.pending().count(), receive.held()), (1, 4096));
}

#[test]
fn gaps_overruns_and_bytes_after_the_end_are_faults() {
    let mut receive = receive(&Budget::new(1 << 20));
    assert_eq!(
        receive.content(1, bytes(1), Instant::ZERO),
        Err(Reason::ProtocolError)
    );
    assert_eq!(
        receive.content(0, bytes(4097), Instant::ZERO),
        Err(Reason::FlowControl)
    );
    assert_eq!(
        receive.content(u64::MAX, bytes(4), Instant::ZERO),
        Err(Reason::ProtocolError)
    );
    assert_eq!(receive.end_at(1, Instant::ZERO), Err(Reason::ProtocolError));
    receive
        .content(0, bytes(2), Instant::ZERO)
        .expect("in order");
    receive.end_at(2, Instant::ZERO).expect("the end");
    receive.end_at(2, Instant::ZERO).expect("the end, again");
    assert_eq!(
        receive.content(2, bytes(1), Instant::ZERO),
        Err(Reason::ProtocolError)
    );
    assert_eq!(receive.ack(), 3);
}

#[test]
fn credit_comes_back_only_as_the_socket_takes_bytes() {
    let mut receive = receive(&Budget::new(1 << 30));
    receive
        .content(0, bytes(4096), Instant::ZERO)
        .expect("in order");
    assert_eq!(receive.limit(), 4096);
    let mut shared = SharedWindow::new(65_536, Instant::ZERO);
    receive.written(100, Instant::ZERO, Some((ROUND_TRIP, &mut shared)));
    assert_eq!(receive.limit(), 4096, "less than half a window");
    receive.written(3000, Instant::ZERO, Some((ROUND_TRIP, &mut shared)));
    assert_eq!(
        receive.limit(),
        3100 + 65536,
        "the first use brings the smallest window"
    );
    assert!(receive.wants_window(Instant::ZERO));
}

#[test]
fn a_window_grows_while_it_is_what_holds_the_sender_back() {
    let mut receive = receive(&Budget::new(1 << 30));
    let (mut now, mut offset) = (Instant::ZERO, 0);
    let mut shared = SharedWindow::new(65_536, Instant::ZERO);
    let mut window_after = |step: Duration, receive: &mut Receive| {
        for _ in 0..64 {
            let count = usize::try_from(receive.limit() - offset).expect("small");
            receive
                .content(offset, bytes(count), now)
                .expect("within credit");
            offset += count as u64;
            now += step;
            receive.written(count, now, Some((ROUND_TRIP, &mut shared)));
            shared.measured(now, ROUND_TRIP, ROUND_TRIP);
        }
        receive.window
    };
    assert_eq!(window_after(Duration::from_millis(50), &mut receive), 65536);
    assert_eq!(
        window_after(Duration::from_millis(5), &mut receive),
        16 << 20
    );
}

#[test]
fn busy_streams_of_a_link_share_its_window_evenly() {
    let budget = Budget::new(1 << 30);
    let mut shared = SharedWindow::new(65_536, Instant::ZERO);
    let (mut first, mut second) = (receive(&budget), receive(&budget));
    let mut now = Instant::ZERO;
    let mut use_up = |receive: &mut Receive| {
        now += Duration::from_millis(5);
        let after = now.saturating_duration_since(receive.granted_at);
        use_up(receive, &mut shared, after);
        shared.measured(now + ROUND_TRIP, ROUND_TRIP, ROUND_TRIP);
    };
    (0..20).for_each(|_| use_up(&mut first));
    assert_eq!(first.window, 16 << 20);
    for _ in 0..30 {
        use_up(&mut first);
        use_up(&mut second);
    }
    assert_eq!(
        first.window, second.window,
        "the one that came later has as much"
    );
}

/// Its sender sends all that it may, and its socket takes all of that, `after` the last time.
fn use_up(receive: &mut Receive, shared: &mut SharedWindow, after: Duration) {
    let now = receive.granted_at + after;
    let bytes = bytes(usize::try_from(receive.limit() - receive.received()).expect("small"));
    let count = bytes.len();
    receive
        .content(receive.received(), bytes, now)
        .expect("within credit");
    receive.written(count, now, Some((ROUND_TRIP, shared)));
}

#[test]
fn a_sender_that_waits_behind_others_gets_its_part_all_the_same() {
    let mut shared = SharedWindow::new(1 << 20, Instant::ZERO);
    let mut receive = receive(&Budget::new(4 << 20));
    receive.answer_took(ROUND_TRIP);
    use_up(&mut receive, &mut shared, ROUND_TRIP * 10);
    assert!(receive.window < 1 << 20);
    for _ in 0..10 {
        // Longer than two round trips, as its bytes were behind theirs; but it had stopped for want of a promise.
        use_up(&mut receive, &mut shared, ROUND_TRIP * 10);
    }
    assert_eq!(receive.window, 1 << 20);
    assert_eq!(shared.share(), 1 << 20, "the link has enough");
}

#[test]
fn a_window_does_not_grow_by_the_queue_that_it_makes() {
    // Whoever reads the link takes 200 MB/s of it: what is under way beyond 2 MB waits there, and makes every answer late.
    let queued = |bytes: u64| Duration::from_nanos(bytes * 5).saturating_sub(ROUND_TRIP);
    let budget = Budget::new(1 << 30);
    let mut shared = SharedWindow::new(65_536, Instant::ZERO);
    let mut now = Instant::ZERO;
    // One after the other, so that none knows the line without the queue of those before it.
    for copy in 0..10 {
        let mut receive = receive(&budget);
        receive.granted_at = now;
        let mut under_way = shared.share();
        for _ in 0..100 {
            let took = ROUND_TRIP + queued(under_way);
            use_up(&mut receive, &mut shared, took);
            now = receive.granted_at;
            shared.measured(now, took, ROUND_TRIP);
            under_way = receive.window;
        }
        assert!(
            (1 << 20..=8 << 20).contains(&receive.window),
            "copy {copy}: {}",
            receive.window
        );
    }
}

#[test]
fn where_the_budget_has_less_than_the_line_needs_each_gets_an_equal_part_and_one_is_left() {
    let budget = Budget::new(1 << 20);
    let _others = Charge::admit(&budget, Buffer::Replay, 600_000).expect("room");
    let left = budget.available();
    let mut shared = SharedWindow::new(64 << 20, Instant::ZERO);
    let mut copies = Vec::new();
    for count in 1..=4 {
        copies.push(receive(&budget));
        for _ in 0..50 {
            for copy in &mut copies {
                use_up(copy, &mut shared, ROUND_TRIP);
                assert!(budget.available() >= EARLY_BYTES, "room for another");
            }
        }
        let part = left / (count + 1);
        for window in copies.iter().map(|copy| copy.window) {
            assert!(window.abs_diff(part) < 10, "{count}: {window}, not {part}");
        }
        assert!(budget.available().abs_diff(part) < 10, "{count}");
    }
}

#[test]
fn streams_that_are_used_once_leave_most_of_a_small_budget() {
    let budget = Budget::new(4 << 20);
    let mut shared = SharedWindow::new(64 << 20, Instant::ZERO);
    let mut used: Vec<Receive> = (0..200).map(|_| receive(&budget)).collect();
    let before = budget.available();
    for receive in &mut used {
        use_up(receive, &mut shared, ROUND_TRIP * 3);
        assert!(receive.window > EARLY_BYTES);
    }
    assert!(budget.available() > before / 2);
    // Where there is enough it is the link's part at once.
    let mut alone = receive(&Budget::new(1 << 30));
    use_up(
        &mut alone,
        &mut SharedWindow::new(1 << 20, Instant::ZERO),
        ROUND_TRIP * 3,
    );
    assert_eq!(alone.window, 1 << 20);
}

#[test]
fn a_reader_that_is_stuck_earns_nothing_by_being_attached_again_and_again() {
    let mut receive = receive(&Budget::new(1 << 20));
    for _ in 0..10 {
        receive.promise_anew();
        let count = usize::try_from(receive.limit() - receive.received()).expect("small");
        receive
            .content(receive.received(), bytes(count), Instant::ZERO)
            .expect("within credit");
    }
    assert_eq!(receive.held(), 2 * EARLY_BYTES);
}

#[test]
fn an_ack_waits_for_company_but_not_for_long() {
    let mut receive = receive(&Budget::new(1 << 20));
    receive
        .content(0, bytes(1), Instant::ZERO)
        .expect("in order");
    assert!(!receive.wants_window(Instant::ZERO));
    let due = receive.ack_deadline().expect("an ack is due");
    assert_eq!(due, Instant::ZERO + Duration::from_millis(25));
    assert!(receive.wants_window(due));
    receive.told();
    receive
        .content(1, bytes(2048), Instant::ZERO)
        .expect("in order");
    assert!(receive.wants_window(Instant::ZERO), "half a window");
}
