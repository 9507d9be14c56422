//! How a grown router becomes a plain one: released step by step, its rows taught by a loss.

use burn::tensor::{Int, Tensor, activation::sigmoid};
use upcycle_kernels::MoeBackend;

use crate::{
    groups::Groups,
    router::{Router, Routing},
    sources::index_tensor,
};

impl<B: MoeBackend> Router<B> {
    /// Sets the hold on twins; from 0 on it is a plain top K over all experts, without tie-breaks.
    pub fn release(&mut self, hold: f32) {
        if hold > 0.0 {
            if let Some(two_level) = &mut self.config.two_level {
                two_level.hold = hold;
            }
            return;
        }
        if let Some(selection) = self.two_level_selection() {
            let bias_e = selection.plain_bias_e();
            self.selection_bias_e = self.selection_bias_e.clone().map(|_| bias_e);
        }
        self.config.two_level = None;
        self.tie_breaks = Vec::new();
    }

    /// How far replicas are from lagging behind the one that their source chose: the mean of `sigmoid(l_e - l_chosen)`
    /// over tokens, the sources they select and all replicas of these, `[1]`; the chosen one counts too, with its constant
    /// 1/2. None without two-level selection.
    ///
    /// Its gradient teaches router rows the split that the tie-break makes, so that it can be released.
    pub fn separation_loss(&self, routing: &Routing<B>) -> Option<Tensor<B, 1>> {
        let origins = self.config.two_level.as_ref()?.origins()?;
        let [t, k] = routing.experts_tk.dims();
        let device = routing.experts_tk.device();
        let groups = Groups::<B>::new(&origins, &device);
        let source_tk = origins
            .source_of_tensor::<B>(&device)
            .gather(0, routing.experts_tk.clone().reshape([t * k]));
        let of_sources = |table_gr: Tensor<B, 1, Int>| {
            table_gr
                .reshape([origins.count(), groups.width])
                .select(0, source_tk.clone())
                .reshape([t, k * groups.width])
        };
        let member_tkr = of_sources(groups.members_gr.clone());
        let counts_tkr = of_sources(index_tensor(&origins.members_mask(), &device)).float();
        let others_tkr = routing.logits_te.clone().gather(1, member_tkr);
        let chosen_tkr = routing
            .logits_te
            .clone()
            .gather(1, routing.experts_tk.clone())
            .reshape([t, k, 1])
            .expand([t, k, groups.width])
            .reshape([t, k * groups.width]);
        let loss_tkr = sigmoid(others_tkr - chosen_tkr) * counts_tkr.clone();
        Some(loss_tkr.sum() / counts_tkr.sum())
    }
}
