//! Bounds what filters do: one instruction of a template may be a filter that makes a gigabyte of two texts of the data,
//! which the budget of instructions does not see.
//!
//! Each filter whose work grows with its input is wrapped. Before it runs, what it reads and what it could make is estimated
//! and taken from a budget that all filters of one text share. The estimate is itself bounded by what is left.
//!
//! Guarantee: pure. Filters of one text read and make [`MAX_WORK`] bytes at most, whatever the data is.

use minijinja::{
    Environment, Error, ErrorKind, State, Value, filters,
    value::{Rest, ValueKind, ValueOrKwargs},
};

/// Maximum bytes that the filters of one text may read and make: some milliseconds, and hundreds of times the data.
const MAX_WORK: usize = 16 * 1024 * 1024;
/// Maximum depth of what is measured: far more than data has, far less than a thread's stack holds.
const MAX_DEPTH: usize = 100;

/// What filters may still do to one text.
struct Left(usize);

/// Wraps the filters of `environment` whose work grows with their input.
pub(crate) fn bound_filters(environment: &mut Environment<'static>) {
    let all = [
        ("escape", Value::from_function(filters::escape)),
        ("e", Value::from_function(filters::escape)),
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("replace", Value::from_function(filters::replace)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("items", Value::from_function(filters::items)),
        ("reverse", Value::from_function(filters::reverse)),
        ("trim", Value::from_function(filters::trim)),
        ("join", Value::from_function(filters::join)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sort", Value::from_function(filters::sort)),
        ("list", Value::from_function(filters::list)),
        ("string", Value::from_function(filters::string)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("sum", Value::from_function(filters::sum)),
        ("indent", Value::from_function(filters::indent)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("map", Value::from_function(filters::map)),
        ("groupby", Value::from_function(filters::groupby)),
        ("unique", Value::from_function(filters::unique)),
        ("chain", Value::from_function(filters::chain)),
        ("zip", Value::from_function(filters::zip)),
        ("pprint", Value::from_function(filters::pprint)),
        ("format", Value::from_function(filters::format)),
        ("tojson", Value::from_function(filters::tojson)),
    ];
    for (name, filter) in all {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            spend(state, name, &arguments)?;
            filter.call(state, &arguments)
        });
    }
}

/// Takes the estimated work of a filter from what is left.
fn spend(state: &mut State, name: &str, arguments: &[Value]) -> Result<(), Error> {
    let left = state.get_or_insert_extension(Left(MAX_WORK));
    match left.0.checked_sub(estimate(name, arguments, left.0)) {
        Some(rest) => {
            left.0 = rest;
            Ok(())
        }
        None => {
            let what = format!("filters would read and make more than {} MiB", MAX_WORK >> 20);
            Err(Error::new(ErrorKind::OutOfFuel, what))
        }
    }
}

/// Bytes that a filter reads and makes, roughly; measured only until it is clear that they are more than `most`.
fn estimate(name: &str, arguments: &[Value], most: usize) -> usize {
    let read = arguments.iter().fold(0, |sum, each| size(each, sum, most, 0));
    if read > most {
        return read;
    }
    let text = arguments.first().and_then(Value::as_str).unwrap_or_default();
    let text_at = |at: usize| arguments.get(at).and_then(Value::as_str);
    let numbers = || arguments.iter().fold(0, |sum, each| number(each).saturating_add(sum));
    let made = match name {
        "replace" => match (text_at(1), text_at(2)) {
            (Some(from), Some(to)) => text.matches(from).count().saturating_mul(to.len()),
            // What is no text is made one, and is as long as it is.
            _ => read.saturating_mul(read),
        },
        "join" => {
            let joiner = arguments.iter().skip(1).fold(0, |sum, each| size(each, sum, most, 0));
            items(arguments.first(), most).saturating_mul(joiner)
        }
        "indent" => text.matches('\n').count().saturating_add(1).saturating_mul(numbers()),
        "tojson" => read.saturating_mul(numbers().saturating_add(1)),
        "batch" | "slice" => numbers(),
        // A width may stand in the format or among the values, and a value may be asked for again and again.
        "format" => {
            let widths = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            let widths = widths.fold(0, |sum: usize, each| sum.saturating_add(each.parse().unwrap_or(usize::MAX)));
            let starred = text.matches('*').count().saturating_mul(numbers());
            text.matches('%').count().saturating_mul(read).saturating_add(widths).saturating_add(starred)
        }
        _ => 0,
    };
    read.saturating_add(made)
}

/// `sum` and the bytes of a value with all that is in it; once more than `most`, as far as it was counted.
fn size(value: &Value, sum: usize, most: usize, depth: usize) -> usize {
    if let Some(text) = value.as_str() {
        return sum.saturating_add(text.len());
    }
    let mut sum = sum.saturating_add(1);
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return sum;
    }
    if depth == MAX_DEPTH {
        return usize::MAX;
    }
    let Ok(inside) = value.try_iter() else { return sum };
    let is_map = value.kind() == ValueKind::Map;
    for each in inside {
        if sum > most {
            break;
        }
        sum = size(&each, sum, most, depth + 1);
        if is_map {
            sum = value.get_item(&each).map_or(sum, |item| size(&item, sum, most, depth + 1));
        }
    }
    sum
}

/// The things in a list, as far as they are not more than `most`.
fn items(list: Option<&Value>, most: usize) -> usize {
    let inside = list.and_then(|list| list.try_iter().ok());
    inside.map_or(0, |inside| inside.take(most.saturating_add(1)).count())
}

/// The number that an argument is, or those that the named ones are together.
fn number(value: &Value) -> usize {
    if value.is_kwargs() {
        let names = value.try_iter().into_iter().flatten();
        return names
            .filter_map(|name| value.get_item(&name).ok())
            .fold(0, |sum, each| number(&each).saturating_add(sum));
    }
    match value.kind() {
        ValueKind::Number => usize::try_from(value.clone()).unwrap_or(0),
        _ => 0,
    }
}
