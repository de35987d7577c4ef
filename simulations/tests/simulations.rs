//! What every pull request replays: committed seeds, a fixed range, the same seed twice.

mod simulations {
    #[cfg(not(tunnel_canary))]
    use simulations::{CLUSTERS, REQUIRED, REQUIRED_OF_CLUSTERS};
    use simulations::{minimise, report, run, run_batch};

    /// Seeds that once found something, with what.
    #[cfg(not(tunnel_canary))]
    const COMMITTED: &[u64] = &[
        5,         // `connected` took more credit for granted than it was given
        21,        // a dial for a stream that had ended before outputs were polled
        101_387,   // a `connect-failed` that said `done` left its stream behind
        1235,      // an edge that spoke before its `connected` wrote the client's reply
        288, // an end between a new link and its `resume` was told with an epoch that the acceptor didn't know
        1065, // a stream of version 1 went on by a base link, with a limit without bound
        11_249, // a reader that was stuck earned credit by each new attachment
        17_044, // an opener that lacked the last bytes was told that all was done, and waited for ever
        1_000_003, // a hub whose link was gone before it was told to leave waited for that turn
        1_001_286, // a client that asked before it was told that its replica leaves was refused for good
        1_004_828, // a replica passed a question on a second time, and the edge refused what it had accepted
        1_012_624, // a relay passed on what a refusal has no use for, of whatever size
    ];
    /// The fixed range.
    const SEEDS: std::ops::Range<u64> = 100_000..120_000;

    #[cfg(not(tunnel_canary))]
    fn check(seed: u64) {
        let outcome = run(seed, None);
        if outcome.failure.is_some() {
            let (keep, smallest) = minimise(seed, outcome);
            panic!("{}", report(seed, &keep, &smallest));
        }
    }

    #[cfg(not(tunnel_canary))]
    #[test]
    fn committed_seeds_pass() {
        for seed in COMMITTED {
            check(*seed);
        }
    }

    #[cfg(not(tunnel_canary))]
    #[test]
    fn a_fixed_range_passes_and_sees_everything_rare() {
        let batch = run_batch(SEEDS, || false);
        if let Some((seed, outcome)) = batch.failed {
            let (keep, smallest) = minimise(seed, outcome);
            panic!("{}", report(seed, &keep, &smallest));
        }
        assert_eq!(
            batch.coverage.missing(REQUIRED),
            [""; 0],
            "never came about"
        );
    }

    /// Several replicas, and clients of our own.
    #[cfg(not(tunnel_canary))]
    #[test]
    fn clusters_pass_and_see_what_is_rare_there() {
        let batch = run_batch(CLUSTERS..CLUSTERS + 5_000, || false);
        if let Some((seed, outcome)) = batch.failed {
            let (keep, smallest) = minimise(seed, outcome);
            panic!("{}", report(seed, &keep, &smallest));
        }
        let missing = batch.coverage.missing(REQUIRED_OF_CLUSTERS);
        assert_eq!(missing, [""; 0], "never came about");
        for seed in CLUSTERS..CLUSTERS + 10 {
            assert_eq!(run(seed, None).hash, run(seed, None).hash, "seed {seed}");
        }
    }

    #[test]
    fn the_same_seed_twice_is_the_same_run() {
        for seed in 200_000..200_020 {
            let (first, second) = (run(seed, None), run(seed, None));
            assert_eq!(
                (first.hash, first.events),
                (second.hash, second.events),
                "seed {seed}"
            );
        }
    }

    /// Built with `RUSTFLAGS="--cfg tunnel_canary"`, the core has a bug on purpose: if this fails, the simulations are blind.
    #[cfg(tunnel_canary)]
    #[test]
    fn the_canary_is_found() {
        let batch = run_batch(SEEDS, || false);
        let (_, outcome) = batch.failed.expect("the canary is found");
        let failure = outcome.failure.expect("by an oracle");
        assert!(
            ["prefix", "offsets", "progress", "outcome", "convergence"].contains(&failure.oracle),
            "{failure:?}"
        );
    }

    /// The way to a failure's report is itself looked at: an oracle's finding is told with its seed and a command.
    #[cfg(tunnel_canary)]
    #[test]
    fn a_finding_is_told_so_that_it_can_be_replayed() {
        let (seed, outcome) = run_batch(SEEDS, || false)
            .failed
            .expect("the canary is found");
        let (keep, smallest) = minimise(seed, outcome);
        let text = report(seed, &keep, &smallest);
        assert!(text.contains(&format!("--seed {seed} --fault")), "{text}");
    }
}
