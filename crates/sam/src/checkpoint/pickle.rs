//! Looks into the pickle of a `.pt` file for names that are not tensors or plain containers.
//!
//! The reader behind [`super::StateDict`] runs no code either, but it passes over calls it does not know. A file
//! that calls for `os.system` is not a weight file, and its owner should hear of it. So the opcodes are walked
//! first, and any global beyond an allow-list (the idea of PyTorch's `weights_only`) refuses the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::CheckpointError;

/// Pickles larger than this are no state dict: a million keys take far less.
const MAX_PICKLE: u64 = 256 << 20;

/// Modules of which every listed name is harmless data.
const ALLOWED: &[(&str, &[&str])] = &[
    ("collections", &["OrderedDict", "defaultdict"]),
    ("torch._utils", &["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"]),
    ("torch.nn.parameter", &["Parameter"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.storage", &["UntypedStorage", "TypedStorage"]),
    (
        "torch",
        &[
            "Size", "device", "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8",
            "uint8", "bool",
        ],
    ),
    ("builtins", &["set", "frozenset", "dict", "list", "tuple", "int", "float", "str", "bool"]),
    ("__builtin__", &["set", "frozenset", "dict", "list", "tuple", "int", "float", "str", "bool"]),
    ("_codecs", &["encode"]),
    // numbers that training scripts leave beside the weights
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.core.multiarray", &["scalar"]),
    ("numpy._core.multiarray", &["scalar"]),
];

fn is_allowed(module: &str, name: &str) -> bool {
    // torch.FloatStorage and its like
    let storage = module == "torch"
        && name.ends_with("Storage")
        && name.trim_end_matches("Storage").bytes().all(|b| b.is_ascii_alphanumeric());
    storage || ALLOWED.iter().any(|(m, names)| *m == module && names.contains(&name))
}

/// Refuses a file whose pickle names anything outside the allow-list.
pub(super) fn check(path: &Path) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let mut magic = [0; 4];
    let is_zip = file.read_exact(&mut magic).is_ok() && magic == *b"PK\x03\x04";
    let mut globals = Vec::new();
    let walked = if is_zip {
        read_zip_pickle(path).and_then(|pickle| scan(&mut pickle.as_slice(), &mut globals))
    } else {
        // The format before PyTorch 1.6: magic number, protocol, system, the object, storage keys; each a pickle.
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut limited = file.take(MAX_PICKLE);
        (0..5).try_for_each(|_| scan(&mut limited, &mut globals))
    };
    // What a file asks for matters more than that it is no checkpoint besides.
    match globals.into_iter().find(|(module, name)| !is_allowed(module, name)) {
        Some((module, name)) => {
            Err(CheckpointError::Unsafe { path: path.to_owned(), global: format!("{module}.{name}") })
        }
        None => walked.map_err(|reason| CheckpointError::Format { path: path.to_owned(), reason }),
    }
}

/// The bytes of `*/data.pkl` in a PyTorch archive.
fn read_zip_pickle(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|e| format!("the archive cannot be read ({e}); is the file complete?"))?;
    let names: Vec<String> = archive
        .file_names()
        .filter_map(Result::ok)
        .filter(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
        .map(std::borrow::Cow::into_owned)
        .collect();
    let [name] = names.as_slice() else {
        return Err(format!("expected one data.pkl in the archive, found {}", names.len()));
    };
    let entry = archive.by_name(name).map_err(|e| e.to_string())?;
    if entry.size() > MAX_PICKLE {
        return Err(format!("its pickle claims {} bytes", entry.size()));
    }
    let mut bytes = Vec::new();
    entry.take(MAX_PICKLE).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Walks one pickle to its STOP and notes every global it names.
fn scan(input: &mut impl Read, globals: &mut Vec<(String, String)>) -> Result<(), String> {
    // STACK_GLOBAL takes its two strings from the stack. Only the two that the opcodes right before it pushed are
    // known to lie there; with anything else between, they could be decoys that were popped again.
    let mut strings: Vec<String> = Vec::new();
    // What each entry holds, if it is a string.
    let mut memo: HashMap<u64, Option<String>> = HashMap::new();
    loop {
        let op = byte(input)?;
        let mut pushed = None;
        match op {
            b'.' => return Ok(()),
            b'c' | b'i' => globals.push((line(input)?, line(input)?)),
            0x93 => {
                let name = strings.pop();
                let module = strings.pop();
                // Anything but two plain strings is an attempt to hide the name.
                globals.push((module.unwrap_or_else(|| "?".into()), name.unwrap_or_else(|| "?".into())));
            }
            0x8c | b'U' => pushed = Some(text(input, 1)?),
            b'X' | b'T' => pushed = Some(text(input, 4)?),
            0x8d => pushed = Some(text(input, 8)?),
            b'V' => pushed = Some(line(input)?),
            b'S' => pushed = Some(line(input)?.trim_matches(['\'', '"']).to_owned()),
            b'C' | 0x8a => skip_counted(input, 1)?,
            b'B' | 0x8b => skip_counted(input, 4)?,
            0x8e | 0x96 => skip_counted(input, 8)?,
            b'I' | b'L' | b'F' | b'P' => drop(line(input)?),
            b'p' => drop(memo.insert(memo_index(input)?, strings.last().cloned())),
            b'q' => drop(memo.insert(number(input, 1)?, strings.last().cloned())),
            b'r' => drop(memo.insert(number(input, 4)?, strings.last().cloned())),
            0x94 => drop(memo.insert(memo.len() as u64, strings.last().cloned())),
            b'g' => pushed = recall(&memo, memo_index(input)?),
            b'h' => pushed = recall(&memo, number(input, 1)?),
            b'j' => pushed = recall(&memo, number(input, 4)?),
            0x80 | b'K' => drop(number(input, 1)?),
            b'M' => drop(number(input, 2)?),
            b'J' => drop(number(input, 4)?),
            b'G' | 0x95 => drop(number(input, 8)?),
            0x82..=0x84 => return Err("its pickle uses the extension registry".into()),
            // opcodes without an argument
            b'('
            | b'0'
            | b'1'
            | b'2'
            | b'N'
            | b'R'
            | b'b'
            | b'd'
            | b'l'
            | b't'
            | b's'
            | b'a'
            | b')'
            | b']'
            | b'}'
            | b'e'
            | b'u'
            | b'o'
            | b'Q'
            | 0x81
            | 0x85..=0x89
            | 0x8f..=0x92
            | 0x97
            | 0x98 => {}
            other => return Err(format!("its pickle has the unknown opcode 0x{other:02x}")),
        }
        // Frames and memo opcodes leave the stack as it is.
        let is_neutral = matches!(op, b'p' | b'q' | b'r' | 0x94 | 0x95);
        match pushed {
            Some(string) => strings.push(string),
            None if is_neutral => {}
            None => strings.clear(),
        }
    }
}

fn recall(memo: &HashMap<u64, Option<String>>, index: u64) -> Option<String> {
    memo.get(&index).cloned().flatten()
}

fn memo_index(input: &mut impl Read) -> Result<u64, String> {
    line(input)?.trim().parse().map_err(|_| "a memo index is no number".to_owned())
}

fn byte(input: &mut impl Read) -> Result<u8, String> {
    Ok(number(input, 1)? as u8)
}

fn number(input: &mut impl Read, bytes: usize) -> Result<u64, String> {
    let mut buffer = [0; 8];
    input.read_exact(&mut buffer[..bytes]).map_err(|_| "its pickle ends too early; is the file complete?")?;
    Ok(u64::from_le_bytes(buffer))
}

fn line(input: &mut impl Read) -> Result<String, String> {
    let mut text = Vec::new();
    loop {
        match byte(input)? {
            b'\n' => return Ok(String::from_utf8_lossy(&text).into_owned()),
            b => text.push(b),
        }
    }
}

fn text(input: &mut impl Read, count_bytes: usize) -> Result<String, String> {
    let length = number(input, count_bytes)?;
    let mut text = Vec::new();
    let read = input.take(length.min(MAX_PICKLE)).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if read as u64 != length {
        return Err("its pickle ends too early; is the file complete?".into());
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn skip_counted(input: &mut impl Read, count_bytes: usize) -> Result<(), String> {
    text(input, count_bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globals(pickle: &[u8]) -> Result<Vec<(String, String)>, String> {
        let mut found = Vec::new();
        scan(&mut &pickle[..], &mut found).map(|()| found)
    }

    #[test]
    fn finds_globals_however_they_are_spelled() {
        // GLOBAL
        assert_eq!(globals(b"cos\nsystem\n(S'true'\ntR.").unwrap(), [("os".into(), "system".into())]);
        // STACK_GLOBAL with strings from the stack, memoised in between
        assert_eq!(
            globals(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93.").unwrap(),
            [("os".into(), "system".into())]
        );
        // STACK_GLOBAL with strings from the memo
        assert_eq!(
            globals(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93.").unwrap(),
            [("os".into(), "system".into())]
        );
        assert!(!is_allowed("os", "system") && !is_allowed("?", "?") && !is_allowed("torch", "load"));
        assert!(is_allowed("torch", "FloatStorage") && is_allowed("torch._utils", "_rebuild_tensor_v2"));
    }

    #[test]
    fn cut_off_pickles_are_errors() {
        let whole = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93.";
        for end in 0..whole.len() {
            assert!(globals(&whole[..end]).is_err(), "{end}");
        }
    }
}
