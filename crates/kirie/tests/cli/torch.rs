//! Writes `.pt` files as `torch.save` does, so that the tests need no Python. What it writes was read back once with
//! `torch.load(path, weights_only=True)`.

use std::io::{Cursor, Write};

use kirie_sam::HostTensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// What `torch.save` makes of a state dict: float32 tensors, and counters of batch norm as int64.
pub(crate) fn state_dict(tensors: &[(String, HostTensor)]) -> Vec<u8> {
    archive(&pickle(tensors), tensors.iter().map(|(key, tensor)| storage(key, tensor)))
}

/// The archive around a pickle: entries are stored, not compressed, as `torch.save` does.
pub(crate) fn archive(pickle: &[u8], storages: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: &str, content: &[u8]| {
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(content).unwrap();
    };
    entry("data.pkl", pickle);
    entry("byteorder", b"little");
    for (number, storage) in storages.into_iter().enumerate() {
        entry(&format!("data/{number}"), &storage);
    }
    entry("version", b"3\n");
    zip.finish().unwrap().into_inner()
}

fn is_counter(key: &str) -> bool {
    key.ends_with("num_batches_tracked")
}

fn storage(key: &str, tensor: &HostTensor) -> Vec<u8> {
    let values = tensor.values.iter();
    if is_counter(key) {
        values.flat_map(|v| (*v as i64).to_le_bytes()).collect()
    } else {
        values.flat_map(|v| v.to_le_bytes()).collect()
    }
}

/// Pickle protocol 2 of an `OrderedDict` of tensors, storage `n` for the `n`-th.
fn pickle(tensors: &[(String, HostTensor)]) -> Vec<u8> {
    const ORDERED_DICT: &[u8] = b"ccollections\nOrderedDict\n)R";
    let mut out = [b"\x80\x02", ORDERED_DICT, b"("].concat();
    for (number, (key, tensor)) in tensors.iter().enumerate() {
        let kind = if is_counter(key) { "LongStorage" } else { "FloatStorage" };
        text(&mut out, key);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{kind}\n").bytes());
        text(&mut out, &number.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.values.len());
        out.extend(b"tQ"); // the storage, by its persistent id
        integer(&mut out, 0); // offset
        tuple(&mut out, &tensor.shape);
        tuple(&mut out, &strides(&tensor.shape));
        out.extend([b"\x89", ORDERED_DICT, b"tR"].concat()); // needs no gradient, has no hooks
    }
    out.extend(b"u.");
    out
}

/// Row-major.
fn strides(shape: &[usize]) -> Vec<usize> {
    (1..=shape.len()).map(|i| shape[i..].iter().product()).collect()
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) {
    out.push(b'J');
    out.extend((value as i32).to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    for value in values {
        integer(out, *value);
    }
    out.push(b't');
}
