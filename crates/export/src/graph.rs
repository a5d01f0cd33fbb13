//! An ONNX graph while it is built.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use crate::fold::{Constant, Values};
use crate::proto::{AttributeProto, NodeProto};

/// A constant in the graph.
#[derive(Debug)]
pub(crate) struct Initializer {
    /// Its name.
    pub(crate) name: String,
    /// Its shape and values.
    pub(crate) constant: Constant,
}

/// Nodes and constants, each named once.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// In the order in which they run.
    pub(crate) nodes: Vec<NodeProto>,
    /// Parameters and constants.
    pub(crate) initializers: Vec<Initializer>,
    names: HashSet<String>,
    /// Constants by their content, so that equal ones are kept once.
    known: HashMap<u64, Vec<usize>>,
    /// What nodes are named after: the part of the model that they belong to.
    scope: String,
}

impl Graph {
    /// The nodes that follow belong to the part of the model that holds this parameter.
    pub(crate) fn enter(&mut self, parameter: &str) {
        parameter.rsplit_once('.').map_or("", |(part, _)| part).clone_into(&mut self.scope);
    }

    /// Takes a name out of use, for an input or output.
    pub(crate) fn reserve(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }

    fn unique(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut count = 1;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }

    /// Adds a node with one output, and gives the output's name.
    pub(crate) fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let wanted = if self.scope.is_empty() { op.to_owned() } else { format!("{}/{op}", self.scope) };
        let name = self.unique(&wanted);
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op.to_owned(),
            attribute: attributes,
        });
        name
    }

    /// The name of a constant, which is added if there is none like it.
    pub(crate) fn constant(&mut self, constant: &Constant) -> String {
        let hash = hash(constant);
        if let Some(same) = self.known.get(&hash) {
            for index in same {
                let Initializer { name, constant: known } = &self.initializers[*index];
                if known.shape == constant.shape && known.values == constant.values {
                    return name.clone();
                }
            }
        }
        let wanted = match (&constant.name, constant.exact) {
            (Some(name), true) => name.clone(),
            (Some(name), false) => format!("{name}.folded"),
            (None, _) => "constant".to_owned(),
        };
        let name = self.unique(&wanted);
        self.known.entry(hash).or_default().push(self.initializers.len());
        self.initializers.push(Initializer { name: name.clone(), constant: constant.clone() });
        name
    }

    /// A list of integers, such as a shape.
    pub(crate) fn ints(&mut self, values: &[i64]) -> String {
        self.constant(&Constant::new(vec![values.len()], Values::Ints(values.to_vec())))
    }

    /// One number, for operations on every element.
    pub(crate) fn scalar(&mut self, value: f64) -> String {
        self.constant(&Constant::new(Vec::new(), Values::Floats(vec![value as f32])))
    }

    /// One integer.
    pub(crate) fn int(&mut self, value: i64) -> String {
        self.constant(&Constant::new(Vec::new(), Values::Ints(vec![value])))
    }

    /// Gives a value the name of an output of the graph.
    pub(crate) fn output(&mut self, value: &str, name: &str) {
        let made_here = self.nodes.iter().any(|node| node.output.iter().any(|output| output == value));
        let taken = self.nodes.iter().any(|node| node.output.iter().any(|output| output == name));
        if made_here && !taken {
            for node in &mut self.nodes {
                for part in node.input.iter_mut().chain(&mut node.output) {
                    if part == value {
                        name.clone_into(part);
                    }
                }
            }
        } else {
            let node = self.node("Identity", &[value], Vec::new());
            self.output(&node, name);
        }
    }
}

fn hash(constant: &Constant) -> u64 {
    let mut hasher = DefaultHasher::new();
    constant.shape.hash(&mut hasher);
    match &*constant.values {
        Values::Floats(values) => values.iter().for_each(|value| value.to_bits().hash(&mut hasher)),
        Values::Ints(values) => values.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_constants_are_kept_once_and_names_are_unique() {
        let mut graph = Graph::default();
        assert_eq!(graph.ints(&[1, 2]), "constant");
        assert_eq!(graph.ints(&[1, 3]), "constant_2");
        assert_eq!(graph.ints(&[1, 2]), "constant");
        assert_eq!(graph.initializers.len(), 2);
        graph.enter("neck.0.weight");
        assert_eq!(graph.node("Conv", &["x"], Vec::new()), "neck.0/Conv");
        assert_eq!(graph.node("Conv", &["neck.0/Conv"], Vec::new()), "neck.0/Conv_2");
        graph.output("neck.0/Conv", "y");
        assert_eq!(graph.nodes[1].input, ["y"]);
        assert_eq!(graph.nodes[0].output, ["y"]);
    }
}
