//! Attributes of nodes, by name and type.

use bytes::Bytes;

use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, NodeProto, TensorProto};

/// Reads and sets a node's attributes. An attribute of another type than asked for counts as absent.
pub trait Attributes {
    /// The attribute of that name.
    fn attr(&self, name: &str) -> Option<&AttributeProto>;

    /// Returns the attribute as a whole number.
    fn attr_int(&self, name: &str) -> Option<i64> {
        self.attr(name).filter(|found| found.r#type() == AttributeType::Int).map(AttributeProto::i)
    }

    /// Returns the attribute as a number.
    fn attr_float(&self, name: &str) -> Option<f32> {
        self.attr(name).filter(|found| found.r#type() == AttributeType::Float).map(AttributeProto::f)
    }

    /// Returns the attribute as whole numbers.
    fn attr_ints(&self, name: &str) -> Option<&[i64]> {
        self.attr(name).filter(|found| found.r#type() == AttributeType::Ints).map(|found| found.ints.as_slice())
    }

    /// Text; `None` also when its bytes are no UTF-8.
    fn attr_str(&self, name: &str) -> Option<&str> {
        let found = self.attr(name).filter(|found| found.r#type() == AttributeType::String)?;
        std::str::from_utf8(found.s.as_deref()?).ok()
    }

    /// Returns the attribute as a tensor.
    fn attr_tensor(&self, name: &str) -> Option<&TensorProto> {
        self.attr(name).filter(|found| found.r#type() == AttributeType::Tensor)?.t.as_deref()
    }
}

impl Attributes for NodeProto {
    fn attr(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|attribute| attribute.name() == name)
    }
}

impl NodeProto {
    /// A node of the default domain without attributes.
    #[must_use]
    pub fn new(op_type: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        Self {
            op_type: Some(op_type.to_owned()),
            name: Some(name.to_owned()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: outputs.iter().map(|&output| output.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The same node in another operator domain.
    #[must_use]
    pub fn in_domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.to_owned());
        self
    }

    /// The same node with one more attribute; one of that name is replaced.
    #[must_use]
    pub fn with(mut self, attribute: AttributeProto) -> Self {
        self.set(attribute);
        self
    }

    /// Sets an attribute; one of that name is replaced.
    pub fn set(&mut self, attribute: AttributeProto) {
        self.attribute.retain(|found| found.name() != attribute.name());
        self.attribute.push(attribute);
    }

    /// The name of the input at `place`; `None` when it is left out, by an empty name too.
    #[must_use]
    pub fn input_at(&self, place: usize) -> Option<&str> {
        self.input.get(place).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Returns whether this is `operator` of the default domain.
    #[must_use]
    pub fn is(&self, operator: &str) -> bool {
        self.op_type() == operator && matches!(self.domain(), "" | "ai.onnx")
    }
}

impl AttributeProto {
    /// Creates an attribute that is a whole number.
    #[must_use]
    pub fn int(name: &str, value: i64) -> Self {
        Self { i: Some(value), ..Self::of(name, AttributeType::Int) }
    }

    /// Creates an attribute that is a number.
    #[must_use]
    pub fn float(name: &str, value: f32) -> Self {
        Self { f: Some(value), ..Self::of(name, AttributeType::Float) }
    }

    /// Creates an attribute of whole numbers.
    #[must_use]
    pub fn int_list(name: &str, values: &[i64]) -> Self {
        Self { ints: values.to_vec(), ..Self::of(name, AttributeType::Ints) }
    }

    /// Creates an attribute that is a text.
    #[must_use]
    pub fn text(name: &str, value: &str) -> Self {
        Self { s: Some(Bytes::copy_from_slice(value.as_bytes())), ..Self::of(name, AttributeType::String) }
    }

    /// Creates an attribute that is a tensor.
    #[must_use]
    pub fn tensor(name: &str, value: TensorProto) -> Self {
        Self { t: Some(Box::new(value)), ..Self::of(name, AttributeType::Tensor) }
    }

    fn of(name: &str, kind: AttributeType) -> Self {
        Self { name: Some(name.to_owned()), r#type: Some(kind.into()), ..Self::default() }
    }
}
