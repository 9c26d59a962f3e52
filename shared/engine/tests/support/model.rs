//! The little of `onnx.proto` that tests need, written by hand: field by field, so that hostile models can be written too.

/// A protocol-buffers message that is being written.
#[derive(Clone, Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    pub(crate) fn varint(mut self, field: u64, value: u64) -> Self {
        put_varint(&mut self.0, field << 3);
        put_varint(&mut self.0, value);
        self
    }

    pub(crate) fn bytes(mut self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        put_varint(&mut self.0, field << 3 | 2);
        put_varint(&mut self.0, bytes.as_ref().len() as u64);
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(crate) fn message(self, field: u64, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    pub(crate) fn messages(self, field: u64, messages: &[Message]) -> Self {
        messages.iter().fold(self, |all, one| all.message(field, one))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(crate) const FLOAT: u64 = 1;
pub(crate) const INT64: u64 = 7;
pub(crate) const BOOL: u64 = 9;

/// Sizes of a shape: a number, or a name for any number.
pub(crate) enum Size {
    Fixed(u64),
    Named(&'static str),
}

/// `TypeProto` of a tensor.
pub(crate) fn tensor_type(element: u64, shape: &[Size]) -> Message {
    let dims: Vec<Message> = shape
        .iter()
        .map(|size| match size {
            Size::Fixed(size) => Message::default().varint(1, *size),
            Size::Named(name) => Message::default().bytes(2, name),
        })
        .collect();
    let tensor = Message::default().varint(1, element).message(2, &Message::default().messages(1, &dims));
    Message::default().message(1, &tensor)
}

/// `TypeProto` of a tensor of unknown rank.
pub(crate) fn unranked(element: u64) -> Message {
    Message::default().message(1, &Message::default().varint(1, element))
}

/// Creates a `ValueInfoProto` of a name and a type.
pub(crate) fn value(name: &str, kind: &Message) -> Message {
    Message::default().bytes(1, name).message(2, kind)
}

/// `NodeProto` of the default domain.
pub(crate) fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input));
    outputs.iter().fold(node, |node, output| node.bytes(2, output)).bytes(4, operator)
}

/// `AttributeProto` that holds a graph.
pub(crate) fn graph_attribute(name: &str, graph: &Message) -> Message {
    Message::default().bytes(1, name).message(6, graph).varint(20, 5)
}

/// `AttributeProto` that holds a tensor.
pub(crate) fn tensor_attribute(name: &str, tensor: &Message) -> Message {
    Message::default().bytes(1, name).message(5, tensor).varint(20, 4)
}

/// `TensorProto` with raw data.
pub(crate) fn tensor(name: &str, element: u64, dims: &[u64], data: &[u8]) -> Message {
    let tensor = dims.iter().fold(Message::default(), |tensor, &dim| tensor.varint(1, dim));
    tensor.varint(2, element).bytes(8, name).bytes(9, data)
}

/// Parts of a `GraphProto`, which [`Graph::message`] joins.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Message>,
    pub(crate) inputs: Vec<Message>,
    pub(crate) outputs: Vec<Message>,
    pub(crate) initializers: Vec<Message>,
}

impl Graph {
    pub(crate) fn message(&self) -> Message {
        Message::default()
            .messages(1, &self.nodes)
            .bytes(2, "test")
            .messages(5, &self.initializers)
            .messages(11, &self.inputs)
            .messages(12, &self.outputs)
    }

    /// The whole model, with opset 17 of the default domain.
    pub(crate) fn model(&self) -> Vec<u8> {
        model(&self.message(), &[])
    }
}

/// `ModelProto` of IR version 8 with opset 17, and these further fields.
pub(crate) fn model(graph: &Message, functions: &[Message]) -> Vec<u8> {
    let opset = |domain: &str, version| Message::default().bytes(1, domain).varint(2, version);
    let model = Message::default()
        .varint(1, 8)
        .message(7, graph)
        .message(8, &opset("", 17))
        .message(8, &opset("com.microsoft", 1))
        .message(8, &opset("local", 1));
    model.messages(25, functions).0
}

/// `y = x` for a vector of `batch` elements.
pub(crate) fn identity(element: u64) -> Vec<u8> {
    let kind = tensor_type(element, &[Size::Named("batch")]);
    Graph {
        nodes: vec![node("Identity", &["x"], &["y"])],
        inputs: vec![value("x", &kind)],
        outputs: vec![value("y", &kind)],
        initializers: vec![],
    }
    .model()
}

/// `sum = a + b` and `product = a * b`, of matrices `[rows, 2]`.
pub(crate) fn sum_and_product() -> Vec<u8> {
    let kind = tensor_type(FLOAT, &[Size::Named("rows"), Size::Fixed(2)]);
    Graph {
        nodes: vec![node("Add", &["a", "b"], &["sum"]), node("Mul", &["a", "b"], &["product"])],
        inputs: vec![value("a", &kind), value("b", &kind)],
        outputs: vec![value("sum", &kind), value("product", &kind)],
        initializers: vec![],
    }
    .model()
}

/// A `Loop` that goes round 2^62 times, halving and adding `x` to itself.
pub(crate) fn endless() -> Vec<u8> {
    let (scalar, truth) = (tensor_type(INT64, &[]), tensor_type(BOOL, &[]));
    let kind = tensor_type(FLOAT, &[Size::Fixed(4)]);
    let body = Graph {
        nodes: vec![
            node("Identity", &["go"], &["go_on"]),
            node("Mul", &["carried", "half"], &["halved"]),
            node("Add", &["halved", "x"], &["carried_on"]),
        ],
        inputs: vec![value("round", &scalar), value("go", &truth), value("carried", &kind)],
        outputs: vec![value("go_on", &truth), value("carried_on", &kind)],
        initializers: vec![],
    };
    let looping = node("Loop", &["rounds", "true", "x"], &["y"]).message(5, &graph_attribute("body", &body.message()));
    Graph {
        nodes: vec![looping],
        inputs: vec![value("x", &kind)],
        outputs: vec![value("y", &kind)],
        initializers: vec![
            tensor("rounds", INT64, &[], &(1_u64 << 62).to_le_bytes()),
            tensor("true", BOOL, &[], &[1]),
            tensor("half", FLOAT, &[], &0.5_f32.to_le_bytes()),
        ],
    }
    .model()
}

/// `count` additions in a row.
pub(crate) fn chain(count: usize) -> Vec<u8> {
    let kind = tensor_type(FLOAT, &[Size::Fixed(1)]);
    let name = |at: usize| if at == count { "y".to_owned() } else { format!("x{at}") };
    Graph {
        nodes: (0..count).map(|at| node("Add", &[&name(at), "x0"], &[&name(at + 1)])).collect(),
        inputs: vec![value("x0", &kind)],
        outputs: vec![value("y", &kind)],
        initializers: vec![],
    }
    .model()
}

/// `If` in `If` in …, this deep.
pub(crate) fn nested(depth: usize) -> Vec<u8> {
    let kind = tensor_type(FLOAT, &[Size::Fixed(1)]);
    let mut graph = Graph { nodes: vec![node("Identity", &["x"], &["y"])], ..Graph::default() };
    graph.outputs = vec![value("y", &kind)];
    for _ in 0..depth {
        let branch = graph.message();
        let fork = node("If", &["true"], &["y"]).message(5, &graph_attribute("then_branch", &branch)).message(
            5,
            &graph_attribute(
                "else_branch",
                &Graph {
                    nodes: vec![node("Identity", &["x"], &["y"])],
                    outputs: vec![value("y", &kind)],
                    ..Graph::default()
                }
                .message(),
            ),
        );
        graph = Graph { nodes: vec![fork], outputs: vec![value("y", &kind)], ..Graph::default() };
    }
    graph.inputs = vec![value("x", &kind)];
    graph.initializers = vec![tensor("true", BOOL, &[], &[1])];
    graph.model()
}

/// `FunctionProto` in the domain `local` with one input `a` and one output `z`, made of these calls in a row.
pub(crate) fn function(name: &str, calls: &[(&str, &str)]) -> Message {
    let mut function = Message::default().bytes(1, name).bytes(4, "a").bytes(5, "z");
    for (at, (domain, operator)) in calls.iter().enumerate() {
        let (from, to) = (
            if at == 0 { "a".to_owned() } else { format!("t{at}") },
            if at + 1 == calls.len() { "z".to_owned() } else { format!("t{}", at + 1) },
        );
        function = function.message(7, &node(operator, &[&from], &[&to]).bytes(7, domain));
    }
    let opset = |domain: &str, version| Message::default().bytes(1, domain).varint(2, version);
    function.message(9, &opset("", 17)).message(9, &opset("local", 1)).bytes(10, "local")
}

/// A model whose only node is of that domain and operator.
pub(crate) fn one_node(domain: &str, operator: &str) -> Message {
    let kind = tensor_type(FLOAT, &[Size::Fixed(1)]);
    Graph {
        nodes: vec![node(operator, &["x"], &["y"]).bytes(7, domain)],
        inputs: vec![value("x", &kind)],
        outputs: vec![value("y", &kind)],
        initializers: vec![],
    }
    .message()
}
