//! Plans and runs of sweeps, with an engine that computes nothing.

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use upcycle_data::{DataConfig, Dataset};
use upcycle_kernels::Kernels;
use upcycle_lab::{
    Calibration, Cleaning, Estimate, Growth, LabError, MemoryLimit, Meter, Observer, RunEvent,
    Runner, StageGraph, StageSpec, StepTimes, Store, SweepConfig, SweepPlan, SweepStages, Usage,
    Workload, collect, presets,
};
use upcycle_lm::{Finish, GeneratedToken, WeightSink};
use upcycle_operator::{LayerPlan, ReplicationPlan, Verification};
use upcycle_report::Grows;
use upcycle_tasks::ScoringModel;
use upcycle_team::Team;
use upcycle_train::{
    CompareJob, Engine, Evaluation, GenerateJob, Start, TrainError, TrainEvent, TrainJob,
    TrainOutcome, UpcycleJob, UpcycleOutcome,
};

/// 1000 steps of pre-training, four budgets, two recipes, two seeds.
fn quick() -> SweepConfig {
    let mut config = presets::sweep("quick").unwrap();
    config.tokens = None;
    config.cpt = vec![0.1, 0.25, 0.5, 1.0];
    config.recipes = vec!["paper".into(), "exact".into()];
    config
}

fn data() -> Dataset {
    Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap()
}

fn plan(config: &SweepConfig) -> SweepPlan {
    SweepPlan::new(config, &data(), "cpu").unwrap()
}

fn steps(plan: &SweepPlan) -> u64 {
    plan.graph.stages().iter().map(|stage| stage.steps()).sum()
}

#[test]
fn lengths_of_pre_training_share_one_trunk() {
    let mut config = quick();
    (config.seeds, config.first_seed) = (1, 100);
    config.recipes = vec!["exact".into()];
    config.cpt = vec![1.0];
    // 250 and 1000 steps of 1024 tokens; decays of 50 and 200 steps.
    config.lengths = vec![256_000, 1_024_000];
    let plan = plan(&config);
    let after = (200 + 50) + (800 + 200);
    assert_eq!(steps(&plan), 2 * (1000 + after) + after);
    let lengths: Vec<_> = plan.cells.iter().map(|cell| cell.setting.length).collect();
    assert_eq!(lengths, [Some(256_000), Some(1_024_000)]);
    assert!(plan.cells.iter().all(|cell| cell.seed == 100));

    config.tokens = Some(1_024_000);
    let error = SweepPlan::new(&config, &data(), "cpu").unwrap_err();
    assert!(error.to_string().contains("`tokens`"), "{error}");
    (config.tokens, config.lengths) = (None, vec![1_024_000, 1_024_001]);
    let error = SweepPlan::new(&config, &data(), "cpu").unwrap_err();
    assert!(
        error.to_string().contains("another number of steps"),
        "{error}"
    );
}

#[test]
fn budgets_that_end_before_a_release_are_told() {
    let mut config = quick();
    config.recipes = vec!["released".into(), "exact".into()];
    config.cpt = vec![0.1, 0.25];
    // Released after 100 steps: at the very end of the first budget, and before the decay of the second.
    let notes = plan(&config).notes();
    let expected = "released releases replicas only in the decay that ends CPT 10\u{a0}% (tiny, 16 experts, top-2): its release takes 100 steps after the operator, and the budget has 100, of which 100 are the decay";
    assert_eq!(notes, [expected]);
    config.recipes = vec!["short-release".into()];
    config.cpt = vec![0.25];
    let notes = plan(&config).notes();
    assert!(
        notes[0].starts_with("short-release holds replicas apart beyond the end"),
        "{notes:?}"
    );
}

#[test]
fn learning_rates_change_at_the_operator_for_all_models() {
    let mut config = quick();
    config.seeds = 1;
    config.cpt = vec![0.5];
    config.recipes = vec!["exact".into()];
    config.cpt_lr = vec![1.0, 0.5];
    let plan = plan(&config);
    let mut trained = 0;
    for stage in plan.graph.stages() {
        if let StageSpec::Train { spec, .. } = &stage.spec {
            let lr = spec.schedule.peak_lr;
            // The trunks of both small models and of the big one.
            assert!(
                lr == 5e-3 || (lr == 2.5e-3 && stage.from >= 1000),
                "{}",
                stage.label
            );
            trained += usize::from(lr == 2.5e-3);
        }
    }
    // Stable and decay of each of three models.
    assert_eq!(trained, 6);
    let factors: Vec<_> = plan.cells.iter().map(|cell| cell.setting.cpt_lr).collect();
    assert_eq!(factors, [Some(1.0), Some(0.5)]);
}

#[test]
fn auto_takes_the_recipe_that_suits_the_budget() {
    let mut config = quick();
    (config.seeds, config.tokens) = (1, Some(2_000_000));
    config.recipes = vec!["auto".into()];
    config.cpt = vec![0.25, 0.6, 1.0];
    let plan = plan(&config);
    let operator = |cell: usize| match &plan.graph.get(&plan.cells[cell].upcycle).unwrap().spec {
        StageSpec::Upcycle { spec, .. } => spec.recipe.name.clone(),
        StageSpec::Train { .. } => panic!("no operator"),
    };
    // Of 488, 1172 and 1953 steps the last 244, 313 and 391 are the decay.
    let expected = ["exact", "short-release", "boosted-release"];
    assert_eq!([0, 1, 2].map(operator), expected);
    assert!(plan.cells.iter().all(|cell| cell.recipe == "auto"));

    // With softmax scores a release pays sooner: of the first 244 steps at the stable rate, and of 312.
    config.scales = vec!["tiny-softmax".into()];
    config.cpt = vec![0.25, 0.3];
    let softmax = self::plan(&config);
    let operator = |cell: usize| match &softmax
        .graph
        .get(&softmax.cells[cell].upcycle)
        .unwrap()
        .spec
    {
        StageSpec::Upcycle { spec, .. } => spec.recipe.name.clone(),
        StageSpec::Train { .. } => panic!("no operator"),
    };
    assert_eq!([0, 1].map(operator), ["exact", "short-release"]);

    config.scales = vec!["tiny".into()];
    config.top_k = vec![1];
    let plan = self::plan(&config);
    let with_a_release = plan
        .graph
        .stages()
        .into_iter()
        .any(|stage| match &stage.spec {
            StageSpec::Upcycle { spec, .. } => spec.recipe.name != "exact",
            StageSpec::Train { .. } => false,
        });
    assert!(!with_a_release);
    let error = presets::recipe("auto").unwrap_err();
    assert!(
        error.to_string().contains("depends on the budget"),
        "{error}"
    );
}

#[test]
fn budgets_share_one_trunk_and_recipes_share_the_baselines() {
    let mut config = quick();
    config.seeds = 1;
    config.recipes = vec!["exact".into()];
    config.cpt = vec![0.1, 0.2, 0.25, 0.5, 1.0];
    // tau = 1000; decays of 100 (all of the CPT), 120, 125, 150 and 200 steps.
    let decays = 100 + 120 + 125 + 150 + 200;
    let fixed = 1800 + decays;
    let upcycled = 800 + decays;
    assert_eq!(steps(&plan(&config)), 2 * fixed + upcycled);

    config.recipes.push("paper".into());
    assert_eq!(steps(&plan(&config)), 2 * fixed + 2 * upcycled);
    assert_eq!(plan(&config).cells.len(), 10);
}

#[test]
fn annealed_runs_decay_twice() {
    let mut config = quick();
    config.protocols = vec![upcycle_lab::Protocol::Annealed];
    (config.seeds, config.cpt) = (1, vec![1.0]);
    config.recipes = vec!["exact".into()];
    // Three models; pre-training is shared by Fixed-E and Upcycled.
    assert_eq!(steps(&plan(&config)), 2 * 1000 + 3 * 1000);
    let plan = plan(&config);
    let cell = &plan.cells[0];
    let warmups: Vec<(u64, u64, bool)> = plan
        .graph
        .chain(&cell.upcycled)
        .iter()
        .filter_map(|stage| match &stage.spec {
            StageSpec::Train { spec, .. } => Some((
                spec.schedule.warmup_from,
                spec.schedule.warmup_steps,
                spec.schedule.decay_from.is_some(),
            )),
            StageSpec::Upcycle { .. } => None,
        })
        .collect();
    let expected = [
        (0, 50, false),
        (0, 50, true),
        (1000, 50, false),
        (1000, 50, true),
    ];
    assert_eq!(warmups, expected);
}

/// Steps of the operators before the end of a cell's upcycled run, and experts after each.
fn growths(plan: &SweepPlan, cell: usize) -> Vec<(u64, usize)> {
    let chain = plan.graph.chain(&plan.cells[cell].upcycled);
    let upcycled = chain
        .iter()
        .filter(|stage| matches!(stage.spec, StageSpec::Upcycle { .. }));
    upcycled
        .map(|stage| (stage.from, stage.model.experts))
        .collect()
}

#[test]
fn tau_moves_while_all_steps_stay() {
    let mut config = quick();
    (config.seeds, config.cpt) = (1, vec![1.0]);
    config.recipes = vec!["exact".into()];
    config.transitions = vec![0.25, 0.5];
    let plan = plan(&config);
    let taus: Vec<_> = (0..2).map(|cell| growths(&plan, cell)).collect();
    assert_eq!(taus, [[(500, 16)], [(1000, 16)]]);
    for (cell, tau) in plan.cells.iter().zip([500, 1000]) {
        assert_eq!(cell.pretrain_tokens, tau * 1024);
        assert_eq!(cell.pretrain_tokens + cell.cpt_tokens, 2000 * 1024);
        assert_eq!(cell.setting.cpt_fraction, (2000 - tau) as f64 / tau as f64);
    }
    // Before their own tau runs are the same; after it, data are others. Decays are 200 steps.
    let fixed = 1000 + 1500 + 1000;
    assert_eq!(steps(&plan), 2 * fixed + 1500 + 1000);
}

#[test]
fn doublings_are_spread_over_the_shortest_budget() {
    let mut config = quick();
    (config.seeds, config.multipliers) = (1, vec![2.0, 8.0]);
    (config.recipes, config.cpt) = (vec!["exact".into()], vec![0.5, 1.0]);
    config.growth = vec![Growth::Jump, Growth::Doubling];
    let plan = plan(&config);
    // One doubling is a jump.
    let recipes: Vec<&str> = plan.cells.iter().map(|cell| cell.recipe.as_str()).collect();
    let doubling = "exact by doubling";
    assert_eq!(
        recipes,
        ["exact", "exact", "exact", "exact", doubling, doubling]
    );
    // The shorter run decays from step 1350 on.
    let expected = [(1000, 16), (1116, 32), (1233, 64)];
    assert_eq!(growths(&plan, 4), expected);
    assert_eq!(growths(&plan, 5), expected);
    assert_eq!(growths(&plan, 2), [(1000, 64)]);

    config.stages = vec![0.0, 0.1, 0.5];
    let staged = self::plan(&config);
    assert_eq!(growths(&staged, 4), [(1000, 16), (1035, 32), (1175, 64)]);
    config.stages = vec![0.0, 0.5];
    let error = SweepPlan::new(&config, &data(), "cpu").unwrap_err();
    assert!(
        error.to_string().contains("3 doublings need 3 shares"),
        "{error}"
    );
    (config.stages, config.recipes) = (Vec::new(), vec!["short-release".into()]);
    let error = SweepPlan::new(&config, &data(), "cpu").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("releases its replicas at step 1300"),
        "{error}"
    );
}

#[test]
fn dense_models_are_grown_beside_experts() {
    let mut config = quick();
    (config.seeds, config.cpt) = (1, vec![1.0]);
    (config.top_k, config.experts) = (vec![1], vec![4, 8]);
    config.recipes = vec!["exact".into(), "sparse-upcycling".into()];
    let plan = plan(&config);
    let dense: Vec<_> = plan
        .graph
        .stages()
        .into_iter()
        .filter(|stage| stage.model.moe_layers() == 0)
        .collect();
    // One dense model for both numbers of experts, with the width of one expert.
    assert_eq!(dense.len(), 1);
    assert_eq!((dense[0].model.d_ffn, dense[0].steps()), (16, 1000));
    for cell in &plan.cells {
        let grown = plan.graph.get(&cell.upcycled).unwrap();
        let big = plan.graph.get(&cell.fixed_me).unwrap();
        assert_eq!(grown.model.experts, big.model.experts);
        assert_eq!(grown.model.d_expert, big.model.d_expert);
    }
}

#[test]
fn keys_depend_on_what_matters() {
    let keys = |config: &SweepConfig, backend: &str| -> BTreeSet<String> {
        let plan = SweepPlan::new(config, &data(), backend).unwrap();
        plan.graph
            .stages()
            .iter()
            .map(|s| s.key.to_string())
            .collect()
    };
    let base = keys(&quick(), "cpu");
    assert_eq!(base, keys(&quick(), "cpu"));
    assert!(base.is_disjoint(&keys(&quick(), "cuda")));
    let mut longer = quick();
    longer.tokens = Some(2_000_000);
    assert!(base.is_disjoint(&keys(&longer, "cpu")));
    // More seeds add stages and change none.
    let mut seeds = quick();
    seeds.seeds = 3;
    assert!(base.is_subset(&keys(&seeds, "cpu")));
    // So do other budgets: the trunk at tau is the same one.
    let mut budgets = quick();
    budgets.cpt = vec![0.5];
    assert!(
        keys(&budgets, "cpu")
            .iter()
            .filter(|key| base.contains(*key))
            .count()
            >= 8
    );
}

#[test]
fn whose_recipe_it_is_changes_no_key() {
    let plan = plan(&quick());
    assert!(plan.cells.iter().any(|cell| cell.of_paper));
    for stage in plan.graph.stages() {
        if let StageSpec::Upcycle { spec, .. } = &stage.spec {
            assert!(!spec.recipe.of_paper);
        }
    }
}

#[test]
fn axes_that_cannot_be_are_named() {
    let error = |change: &dyn Fn(&mut SweepConfig)| {
        let mut config = quick();
        change(&mut config);
        SweepPlan::new(&config, &data(), "cpu")
            .unwrap_err()
            .to_string()
    };
    assert!(error(&|c| c.seeds = 0).contains("`seeds`"));
    assert!(error(&|c| c.multipliers = vec![1.3]).contains("whole number"));
    assert!(error(&|c| c.multipliers = vec![0.5]).contains("above 1"));
    assert!(error(&|c| c.top_k = vec![9]).contains("top_k"));
    assert!(
        error(&|c| c.recipes = vec!["best".into()]).contains("uniform, uniform-moments, exact, ")
    );
    assert!(error(&|c| c.scales = vec!["7G".into()]).contains("154M"));
    assert!(error(&|c| c.cpt = vec![f64::NAN]).contains("`cpt`"));
    assert!(error(&|c| c.vocab = Some(10)).contains("vocab"));
    assert!(error(&|c| c.multipliers = vec![5.0]).contains("cap"));
    assert!(error(&|c| c.name = "../x".into()).contains("name"));
    assert!(error(&|c| c.transitions = vec![0.5]).contains("one number"));
    assert!(
        error(&|c| (c.cpt, c.transitions) = (vec![1.0], vec![0.5, 1.0]))
            .contains("between 0 and 1")
    );
    assert!(error(&|c| c.growth = vec![Growth::Doubling]).contains("power of two"));
    let crowded = error(&|c| {
        (c.growth, c.multipliers) = (vec![Growth::Doubling], vec![4.0]);
        (c.cpt, c.tokens) = (vec![0.1], Some(20_000));
    });
    assert!(crowded.contains("do not fit"), "{crowded}");
    let late = error(&|c| {
        (c.stages, c.growth) = (vec![0.1, 0.5], vec![Growth::Doubling]);
    });
    assert!(late.contains("begin with 0"), "{late}");
    assert!(error(&|c| c.stages = vec![0.0, 0.5]).contains("add `doubling`"));
    let dense = error(&|c| c.recipes = vec!["sparse-upcycling".into()]);
    assert!(dense.contains("`top_k` = 1"), "{dense}");
}

#[test]
fn unknown_keys_of_a_file_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    let mut text = toml::to_string(&quick()).unwrap();
    text.insert_str(0, "sedes = 3\n");
    fs::write(&path, text).unwrap();
    let error = presets::sweep(path.to_str().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("sedes") && error.contains("line 1"),
        "{error}"
    );
}

/// Pretends to train: the loss falls with the step, the more so with more experts.
#[derive(Default)]
struct Fake {
    steps: AtomicU64,
    fail_at: Option<u64>,
    /// Stages that end here break off with a panic, as where a device fails.
    panic_at: Option<u64>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

fn evaluation(loss: f64) -> Evaluation {
    Evaluation {
        loss,
        routing: Vec::new(),
        twins: None,
    }
}

impl Engine for Fake {
    fn backend(&self) -> &str {
        "cpu"
    }

    fn device(&self) -> &str {
        "none"
    }

    fn train(
        &self,
        job: &TrainJob,
        events: &mut (dyn FnMut(TrainEvent) + Send),
    ) -> Result<TrainOutcome, TrainError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let from = match job.start {
            Start::Initial { .. } | Start::Weights(_) => 0,
            Start::Checkpoint(path) => {
                let step = path.file_name().unwrap().to_str().unwrap();
                step.strip_prefix("step-").unwrap().parse().unwrap()
            }
        };
        let end = job.spec.schedule.end;
        // Metrics begin anew with the stage.
        fs::write(job.dir.join("metrics.jsonl"), "").unwrap();
        std::thread::sleep(Duration::from_millis(2));
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.fail_at == Some(end) {
            return Err(TrainError::NoBf16);
        }
        assert!(self.panic_at != Some(end), "the device is gone");
        self.steps.fetch_add(end - from, Ordering::SeqCst);
        events(TrainEvent::Step {
            step: end,
            loss: 1.0,
            tokens: 1,
            seconds: 0.1,
        });
        fs::create_dir_all(job.dir.join("checkpoints").join(format!("step-{end:08}"))).unwrap();
        Ok(TrainOutcome {
            step: end,
            tokens: end,
            evaluation: evaluation(2.0 - end as f64 / 1e4),
            test_loss: (job.spec.evaluation.test_rows > 0).then_some(2.1 - end as f64 / 1e4),
            train_seconds: 1.0,
            kernels: Some(Kernels::Specialised),
        })
    }

    fn upcycle(&self, job: &UpcycleJob) -> Result<UpcycleOutcome, TrainError> {
        fs::create_dir_all(job.to.unwrap()).unwrap();
        Ok(UpcycleOutcome {
            step: 1000,
            tokens: 1000,
            before: evaluation(1.9),
            after: evaluation(2.3),
            plan: ReplicationPlan {
                layers: vec![LayerPlan::from_counts(&[2, 2])],
            },
            scores: Vec::new(),
            deviations: Vec::new(),
            kernels: None,
            verification: Verification {
                tokens: 64,
                loss_before: 1.9,
                loss_after: 2.3,
                largest_logit_difference: 3.0,
                relative_logit_difference: 0.5,
                layers: Vec::new(),
            },
        })
    }

    fn export(&self, _: &Path, _: &mut (dyn WeightSink + Send)) -> Result<(), TrainError> {
        Ok(())
    }

    fn compare(&self, _: &CompareJob) -> Result<Verification, TrainError> {
        Err(TrainError::NoBf16)
    }

    fn generate(
        &self,
        _: &GenerateJob,
        _: &mut (dyn FnMut(GeneratedToken) -> ControlFlow<()> + Send),
    ) -> Result<Vec<Finish>, TrainError> {
        Err(TrainError::NoBf16)
    }

    fn scorer(&self, _: &Start) -> Result<Box<dyn ScoringModel>, TrainError> {
        Err(TrainError::NoBf16)
    }
}

impl Meter for Fake {
    fn steps(&self, _: &Workload) -> Result<StepTimes, TrainError> {
        Ok(StepTimes {
            gradients: Vec::new(),
            update: Vec::new(),
        })
    }

    fn matmul_rate(&self) -> f64 {
        1e9
    }
}

#[derive(Default)]
struct Events {
    cached: AtomicUsize,
    order: Mutex<Vec<String>>,
}

impl Observer for Events {
    fn event(&self, event: RunEvent) {
        match event {
            RunEvent::Cached(_) => {
                self.cached.fetch_add(1, Ordering::SeqCst);
            }
            RunEvent::Finished(stage, _) => {
                self.order.lock().unwrap().push(stage.key.to_string());
            }
            _ => {}
        }
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

fn runner<'a>(
    team: Team,
    engine: &'a Fake,
    data: &'a Dataset,
    store: &'a Store,
    observer: &'a Events,
) -> Runner<'a> {
    Runner {
        engine,
        team,
        data,
        store,
        limit: MemoryLimit::NONE,
        checkpoint_interval: Duration::from_secs(60),
        observer,
        stop: &STOP,
    }
}

/// Runs a graph, three stages at a time.
fn run(
    graph: &StageGraph,
    engine: &Fake,
    data: &Dataset,
    store: &Store,
    observer: &Events,
) -> Result<(), LabError> {
    runner(Team::alone(), engine, data, store, observer).run(graph, 3)
}

#[test]
fn every_stage_runs_once_after_its_parent_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let plan = plan(&quick());
    let (engine, events) = (Fake::default(), Events::default());
    run(&plan.graph, &engine, &data(), &store, &events).unwrap();
    assert_eq!(engine.steps.load(Ordering::SeqCst), steps(&plan));
    assert!((2..=3).contains(&engine.most_running.load(Ordering::SeqCst)));
    let order = events.order.into_inner().unwrap();
    assert_eq!(order.len(), plan.graph.len());
    for stage in plan.graph.stages() {
        let place = |key: &str| order.iter().position(|other| other == key).unwrap();
        if let Some(parent) = &stage.parent {
            assert!(place(&parent.to_string()) < place(&stage.key.to_string()));
        }
    }

    let (again, events) = (Fake::default(), Events::default());
    run(&plan.graph, &again, &data(), &store, &events).unwrap();
    assert_eq!(again.steps.load(Ordering::SeqCst), 0);
    assert_eq!(events.cached.load(Ordering::SeqCst), plan.graph.len());

    let results = collect(
        &quick(),
        &plan,
        &store,
        ("cpu", "none"),
        None,
        String::new(),
    )
    .unwrap();
    assert_eq!(results.cells.len(), 16);
    let recipes = results.recipes.iter();
    let origins: Vec<_> = recipes.map(|r| (r.name.as_str(), r.of_paper)).collect();
    assert_eq!(origins, [("paper", true), ("exact", false)]);
    // Two models from scratch and two recipes, four budgets, two seeds.
    assert_eq!(results.curves.len(), 4 * 4 * 2);
    assert!(results.cells.iter().all(|cell| cell.loss_after == 2.3));
    let kernels = [&results.cells[0].kernels, &results.environment.kernels];
    assert!(
        kernels
            .iter()
            .all(|it| it.as_deref() == Some("specialised"))
    );
    assert!(results.cells[0].train_flops < results.cells[0].train_flops_fixed_me);
}

#[test]
fn what_was_freed_is_computed_again_where_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut config = quick();
    (config.seeds, config.recipes) = (1, vec!["exact".into()]);
    config.cpt = vec![0.5];
    let first = plan(&config);
    let (engine, events) = (Fake::default(), Events::default());
    run(&first.graph, &engine, &data(), &store, &events).unwrap();
    let folder = store.report_dir("quick");
    SweepStages::of(&first).write(&folder).unwrap();
    fs::write(folder.join("sweep.toml"), "").unwrap();
    for stage in first.graph.stages() {
        let checkpoint = store.checkpoint(&stage.key).unwrap();
        fs::write(checkpoint.join("model"), [0; 8]).unwrap();
    }
    let usage = Usage::of(&store);
    assert!(usage.sweeps[0].is_finished());
    let freeable = usage.freeable(Cleaning::default());
    assert!(!freeable.is_empty() && freeable.len() < first.graph.len());
    for what in &freeable {
        assert!(store.free(what).unwrap());
    }
    for cell in &first.cells {
        assert!(store.checkpoint(&cell.upcycled).is_ok());
    }
    assert!(store.missing(&first.graph).is_empty());

    config.cpt = vec![0.5, 1.0];
    let more = plan(&config);
    // Trunks end where the first budget decays.
    let trunks: Vec<_> = (more.graph.stages().into_iter())
        .filter(|stage| stage.to == 1350)
        .collect();
    assert_eq!(trunks.len(), 3);
    let line = r#"{"kind":"evaluation","step":1350,"tokens":9,"loss":2.5}"#;
    for trunk in &trunks {
        fs::write(store.metrics_file(&trunk.key), format!("{line}\n")).unwrap();
    }
    let rows = || {
        let command = String::new();
        let results = collect(&quick(), &first, &store, ("cpu", "none"), None, command).unwrap();
        serde_json::to_string(&(results.cells, results.curves)).unwrap()
    };
    let before = rows();
    // What an interrupted extension leaves takes nothing from the results, and is no stage to go on from.
    let engine = Fake {
        fail_at: Some(1350),
        ..Fake::default()
    };
    run(&more.graph, &engine, &data(), &store, &Events::default()).unwrap_err();
    assert!(engine.steps.load(Ordering::SeqCst) > 0);
    for trunk in &trunks {
        let cut = store.stage_dir(&trunk.key);
        fs::create_dir_all(cut.join("checkpoints/step-00001200")).unwrap();
    }
    assert_eq!(rows(), before);
    assert!(store.missing(&first.graph).is_empty());

    let missing = store.missing(&more.graph);
    for trunk in &trunks {
        assert!(missing.contains(&trunk.key) && store.is_finished(&trunk.key));
    }
    let stages = more.graph.stages().into_iter();
    let again = stages.filter(|stage| missing.contains(&stage.key));
    let expected: u64 = again.map(|stage| stage.steps()).sum();
    let (engine, events) = (Fake::default(), Events::default());
    run(&more.graph, &engine, &data(), &store, &events).unwrap();
    assert_eq!(engine.steps.load(Ordering::SeqCst), expected);
    assert!(store.missing(&more.graph).is_empty());
    for trunk in &trunks {
        assert!(store.metrics(&trunk.key).unwrap().is_empty());
    }
}

#[test]
fn budgets_are_trained_as_one_trunk_and_their_decays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut config = quick();
    (config.seeds, config.recipes) = (2, vec!["exact".into()]);
    config.cpt = vec![0.1, 0.2, 0.25, 0.5, 1.0];
    let (engine, events) = (Fake::default(), Events::default());
    let plan = plan(&config);
    run(&plan.graph, &engine, &data(), &store, &events).unwrap();
    // Fixed-8, Fixed-16 and Upcycled: the longest trunk each, and the decays of all budgets.
    let decays = 100 + 120 + 125 + 150 + 200;
    let each_seed = (1800 + decays) + (1800 + decays) + (800 + decays);
    assert_eq!(engine.steps.load(Ordering::SeqCst), 2 * each_seed);
}

#[test]
fn a_panic_ends_its_stage_and_no_other_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, store) = (plan(&quick()), Store::open(dir.path()).unwrap());
    let engine = Fake {
        panic_at: Some(1100),
        ..Fake::default()
    };
    let events = Events::default();
    let error = run(&plan.graph, &engine, &data(), &store, &events).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("1100") && text.contains("the device is gone"),
        "{text}"
    );
    // The stage is nobody's any more, and the next run finishes it.
    let again = Fake::default();
    run(&plan.graph, &again, &data(), &store, &Events::default()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_path_that_cannot_be_written_is_an_error_and_no_key() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

    let mut config = quick();
    config.data = DataConfig::Text(upcycle_data::TextConfig {
        paths: vec![PathBuf::from(OsStr::from_bytes(b"caf\xe9.txt"))],
        ..Default::default()
    });
    let error = config.short_hash().unwrap_err().to_string();
    assert!(
        error.contains("UTF-8") && error.contains("quick"),
        "{error}"
    );
}

#[test]
fn processes_on_one_store_share_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&quick());
    let (engine, data) = (Fake::default(), data());
    let finished: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let store = Store::open(dir.path()).unwrap();
                    let events = Events::default();
                    run(&plan.graph, &engine, &data, &store, &events).unwrap();
                    events.order.into_inner().unwrap().len()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    });
    assert_eq!(finished, plan.graph.len());
    assert_eq!(engine.steps.load(Ordering::SeqCst), steps(&plan));
}

#[test]
fn a_team_computes_a_stage_together_and_its_leader_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (plan, data) = (plan(&quick()), data());
    let (engine, events) = (Fake::default(), Events::default());
    let stage = plan.graph.stages()[0];
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for team in Team::threads(3) {
                let runner = runner(team.clone(), &engine, &data, &store, &events);
                scope.spawn(move || {
                    runner.run_stage(stage).unwrap();
                    team.leave();
                });
            }
        });
    }
    // Once by each of the three; the second time the stage is finished, and all are released.
    assert_eq!(engine.steps.load(Ordering::SeqCst), 3 * stage.steps());
    assert_eq!(events.cached.load(Ordering::SeqCst), 1);
    assert_eq!(events.order.into_inner().unwrap().len(), 1);
}

#[test]
fn estimates_follow_the_schedule() {
    let plan = plan(&quick());
    // The engine measures nothing, so all is by its rate of 1 GFLOP/s.
    let calibration = Calibration::measure(&Fake::default(), &plan.graph, None, 1);
    let alone = Estimate::new(
        &plan,
        None,
        "cpu",
        Some(&calibration),
        1,
        &MemoryLimit::NONE,
    );
    let together = Estimate::new(
        &plan,
        None,
        "cpu",
        Some(&calibration),
        2,
        &MemoryLimit::NONE,
    );
    let sum: f64 = alone.stages.iter().filter_map(|stage| stage.seconds).sum();
    assert!((alone.seconds.unwrap() - sum).abs() < 1e-6 * sum);
    // Two at a time take twice as long each, and wait for each other at the end.
    let ratio = together.seconds.unwrap() / sum;
    assert!((0.95..1.2).contains(&ratio), "{ratio}");
    assert!(together.memory > alone.memory);
    for price in &alone.prices {
        let tau = 1.0 / (1.0 + price.setting.cpt_fraction);
        let (up, me) = (price.flops_upcycled, price.flops_fixed_me);
        assert!(up < me && up > (1.0 - tau) * me);
        assert!(price.seconds_after_pretraining < price.seconds_upcycled);
    }
    let unknown = Estimate::new(&plan, None, "cuda", None, 1, &MemoryLimit::NONE);
    assert_eq!(unknown.seconds, None);
    // Blocks of logits and scores count where no kernel of a CPU does without them.
    let blocks = |estimate: &Estimate| {
        let stages = estimate.stages.iter();
        stages.map(|stage| stage.memory.blocks).max()
    };
    assert_eq!(blocks(&alone), Some(0));
    assert!(blocks(&unknown) > Some(0));
}

#[test]
fn a_failed_stage_stops_the_run_and_keeps_what_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let plan = plan(&quick());
    let engine = Fake {
        fail_at: Some(1800),
        ..Fake::default()
    };
    let error = run(&plan.graph, &engine, &data(), &store, &Events::default());
    assert!(matches!(error, Err(LabError::Stage { .. })));
    let unfinished = collect(
        &quick(),
        &plan,
        &store,
        ("cpu", "none"),
        None,
        String::new(),
    );
    assert!(matches!(unfinished, Err(LabError::Unfinished { .. })));

    let (engine, events) = (Fake::default(), Events::default());
    run(&plan.graph, &engine, &data(), &store, &events).unwrap();
    assert!(events.cached.load(Ordering::SeqCst) > 0);
}

#[test]
fn what_grows_is_the_same_for_the_model_of_the_final_shape() {
    let mut config = quick();
    (config.seeds, config.cpt) = (1, vec![0.5]);
    config.recipes = ["exact", "growing-top-k", "wider"].map(String::from).into();
    let plan = plan(&config);
    let shape = |key| {
        let model = &plan.graph.get(key).unwrap().model;
        [model.experts, model.top_k, model.d_expert]
    };
    let expected = [
        ([16, 2, 16], None),
        ([16, 4, 16], Some(Grows::ExpertsAndTopK)),
        ([8, 2, 32], Some(Grows::Width)),
    ];
    for (cell, (grown, grows)) in plan.cells.iter().zip(expected) {
        assert_eq!(shape(&cell.fixed_e), [8, 2, 16]);
        assert_eq!(shape(&cell.upcycled), grown);
        assert_eq!(shape(&cell.fixed_me), grown);
        assert_eq!(cell.setting.grows, grows);
    }
    config.growth = vec![Growth::Doubling];
    config.multipliers = vec![4.0];
    let error = SweepPlan::new(&config, &data(), "cpu").unwrap_err();
    assert!(
        error.to_string().contains("leave `doubling` out"),
        "{error}"
    );
}
