//! Fixed scenarios: the figures that are asked for, and the fleets that they are asked of.

mod simulations {
    use std::time::Duration;

    use proto_core::cloud::CloudConfig;
    use simulations::scenario;

    const MINUTE: Duration = Duration::from_secs(60);

    /// `FLOW=419` prints one flow's messages.
    fn look() {
        if let Some(flow) = std::env::var("FLOW")
            .ok()
            .and_then(|flow| flow.parse().ok())
        {
            simulations::watch(flow);
        }
    }

    fn rate_max() -> usize {
        CloudConfig::default().links_per_second_max as usize
    }

    #[test]
    fn five_thousand_edges_settle_after_a_replica_dies() {
        look();
        let settled = scenario::replica_dies(1, 5_000, 2_500);
        println!("measured: a replica of three dies under 5,000 edges: {settled}");
        assert!(settled.links_after <= MINUTE, "{settled}");
        assert!(settled.streams_after <= MINUTE, "{settled}");
        assert!(settled.lost > 1_500, "{settled}");
        assert!(settled.taken_a_second <= rate_max(), "{settled}");
    }

    #[test]
    fn five_thousand_edges_live_through_a_rolling_drain() {
        look();
        let settled = scenario::rolling_drain(2, 5_000, 1_500);
        println!("measured: three replicas drained in turn under 5,000 edges: {settled}");
        assert!(settled.links_after <= MINUTE, "{settled}");
        assert!(settled.slowest <= Duration::from_secs(1), "{settled}");
        assert!(settled.taken_a_second <= rate_max(), "{settled}");
    }

    #[test]
    fn streams_are_opened_to_edges_that_hop() {
        look();
        let opens = (1..=3).map(|seed| scenario::hops(seed, 2_000));
        let opens = opens.reduce(scenario::Opens::and).expect("some");
        println!("measured: edges that hop every 2 s: {opens}");
        assert!(opens.asked >= 5_000, "{opens}");
        assert!(opens.complete * 1000 >= opens.asked * 999, "{opens}");
        assert!(opens.resumed > 500, "{opens}");
    }

    #[test]
    fn nobody_notices_a_registry_that_fails_for_ten_minutes() {
        look();
        for outage in [
            scenario::Outage::Empty,
            scenario::Outage::Stale,
            scenario::Outage::Dead,
        ] {
            let unnoticed = scenario::registry_fails(1, outage);
            println!("measured: registry {outage:?} for 10 minutes: {unnoticed}");
            assert!(
                unnoticed.slowest <= 2 * unnoticed.slowest_before,
                "{unnoticed}"
            );
        }
    }

    #[test]
    fn ten_thousand_streams_that_expire_leave_nothing() {
        look();
        let detached = scenario::expire(1, 10_000);
        println!("measured: 10,000 streams detached for ever: {detached}");
        assert_eq!(detached.left, 0, "{detached}");
    }

    #[test]
    fn ten_thousand_streams_that_were_detached_go_on() {
        look();
        let detached = scenario::resume(1, 10_000);
        println!("measured: 10,000 streams detached for 20 s: {detached}");
        assert_eq!(detached.left, 0, "{detached}");
    }

    #[test]
    fn a_copy_beside_two_hundred_idle_streams_has_its_part_of_a_small_budget() {
        look();
        let all = [(1, false), (4, false), (1, true), (4, true)].map(|(copies, echoed)| {
            let crowded = scenario::crowd(1, 4 << 20, copies, echoed);
            println!("measured: beside 200 idle streams, {crowded}");
            crowded
        });
        for crowded in all {
            assert!(crowded.left * 2 >= crowded.unreserved, "{crowded}");
            // Half of a window goes there in a round trip, where it can't grow beyond the line's need.
            assert!(crowded.rate * 5 >= crowded.fair_rate * 2, "{crowded}");
            let [quickest, slowest] = crowded.took;
            assert!(slowest <= quickest * 3 / 2, "{crowded}");
        }
    }

    /// What the budget allows is more than they need; it is to be left for them.
    #[test]
    fn a_copy_beside_two_hundred_idle_streams_is_soon_over_where_the_budget_is_large() {
        look();
        for copies in [1, 4] {
            let crowded = scenario::crowd(1, 64 << 20, copies, false);
            println!("measured: beside 200 idle streams, {crowded}");
            assert!(crowded.left * 2 >= crowded.unreserved, "{crowded}");
            assert!(crowded.took[1] <= Duration::from_secs(2), "{crowded}");
        }
    }
}
