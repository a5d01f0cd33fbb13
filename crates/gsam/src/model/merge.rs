//! Low-rank changes folded into the weights.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kirie_nn::adapters::QkvAdapter;

use super::attention::MapAttention;
use super::{MethodConfig, ModelError, SemanticEncoder, SemanticModel};

impl SemanticModel {
    /// A model with the same logits and none of the method's additions: for `lora` and `lora-gsam`, whose changes are changes of
    /// weights, and for `decoder-only` and `full`, which add nothing. Its method is `decoder-only`; it has all parameters under the base's
    /// names.
    ///
    /// # Errors
    /// [`ModelError::NotMergeable`] for the other methods.
    pub fn merged(self) -> Result<Self, ModelError> {
        let plain = MethodConfig::DecoderOnly {};
        match &self.config().method {
            MethodConfig::DecoderOnly {} | MethodConfig::Full {} => Ok(self.with_method(plain)),
            MethodConfig::Lora(_) => Ok(self.materialize().with_method(plain)),
            MethodConfig::LoraGsam(_) => {
                let mut model = self;
                if let SemanticEncoder::Vit(encoder) = &mut model.image_encoder {
                    for block in &mut encoder.blocks {
                        let adapters = [block.lora_q.take(), block.lora_k.take(), block.lora_v.take()];
                        fold(&mut block.attn, &adapters);
                    }
                }
                Ok(model.with_method(plain))
            }
            other => Err(ModelError::NotMergeable {
                method: other.name(),
                mergeable: "lora, lora-gsam, decoder-only and full",
            }),
        }
    }
}

/// Multiplies the queries', keys' and values' columns of the projection, head by head, with the adapters' matrices.
fn fold(attention: &mut MapAttention, adapters: &[Option<QkvAdapter>; 3]) {
    let heads = attention.heads;
    let apply = |x: Tensor<2>| {
        let [lines, all] = x.dims();
        let (dim, head_dim) = (all / 3, all / 3 / heads);
        let parts = adapters.iter().enumerate().map(|(i, adapter)| {
            let part = x.clone().narrow(1, i * dim, dim);
            match adapter {
                Some(QkvAdapter::Lora(lora)) => {
                    part.reshape([lines * heads, head_dim]).matmul(lora.matrix()).reshape([lines, dim])
                }
                _ => part,
            }
        });
        Tensor::cat(parts.collect(), 1).detach()
    };
    let weight = attention.qkv.weight.clone();
    attention.qkv.weight = Param::initialized(weight.id, apply(weight.val()));
    if let Some(bias) = &attention.qkv.bias {
        let [all] = bias.dims();
        let folded = apply(bias.val().reshape([1, all])).reshape([all]);
        attention.qkv.bias = Some(Param::initialized(bias.id, folded));
    }
}
